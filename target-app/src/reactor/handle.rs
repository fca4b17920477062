//! The control plane's way to a reactor: a closure that the reactor runs between two turns, and an answer to await.
//!
//! Many threads may ask one reactor, so the queue is many-to-one; it is looked at once per turn. The control plane may
//! wait; the reactor never does.

use super::Reactor;
use crossbeam_queue::ArrayQueue;
use longrun_hal::wake::Waker;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What the control plane asks of a reactor.
pub trait Command: Send {
    /// Does it, on the reactor's thread. Once.
    fn run(&mut self, reactor: &mut Reactor);

    /// Tells whoever asked that it was done, and frees all of it: both may enter the kernel, so this may be another thread.
    fn finish(self: Box<Self>);
}

/// Nobody waits for its end.
struct Post<F>(Option<F>);

impl<F: FnOnce(&mut Reactor) + Send> Command for Post<F> {
    fn run(&mut self, reactor: &mut Reactor) {
        if let Some(command) = self.0.take() {
            command(reactor);
        }
    }

    fn finish(self: Box<Self>) {}
}

/// Somebody waits for what it returns.
struct Call<F, R> {
    command: Option<F>,
    answer: Option<R>,
    asked: oneshot::Sender<R>,
}

impl<R: Send, F: FnOnce(&mut Reactor) -> R + Send> Command for Call<F, R> {
    fn run(&mut self, reactor: &mut Reactor) {
        self.answer = self.command.take().map(|command| command(reactor));
    }

    fn finish(self: Box<Self>) {
        let Call { answer, asked, .. } = *self;
        if let Some(answer) = answer {
            // The asking task may have been dropped meanwhile; then nobody wants the answer.
            let _ = asked.send(answer);
        }
    }
}

/// Slots of the queue; whoever finds it full tries again.
const QUEUE_SLOTS: usize = 4096;

/// A handle to one reactor; clones share it.
#[derive(Clone)]
pub struct ReactorHandle {
    queue: Arc<ArrayQueue<Box<dyn Command>>>,
    waker: Waker,
}

/// The reactor's end.
pub struct Commands {
    queue: Arc<ArrayQueue<Box<dyn Command>>>,
}

/// Both ends for one reactor.
pub fn commands(waker: Waker) -> (ReactorHandle, Commands) {
    let queue = Arc::new(ArrayQueue::new(QUEUE_SLOTS));
    (ReactorHandle { queue: Arc::clone(&queue), waker }, Commands { queue })
}

impl ReactorHandle {
    /// Has the reactor run `command`, and does not wait. Never call it on a reactor's own thread: it may have to wait for
    /// room.
    pub fn post(&self, command: impl FnOnce(&mut Reactor) + Send + 'static) {
        self.push(Box::new(Post(Some(command))));
    }

    /// Has the reactor run `command` and waits for what it returns.
    ///
    /// Panics if the reactor is gone: the program ends its reactors after everything that asks them.
    pub async fn call<R: Send + 'static>(&self, command: impl FnOnce(&mut Reactor) -> R + Send + 'static) -> R {
        let (asked, answer) = oneshot::channel();
        self.push(Box::new(Call { command: Some(command), answer: None, asked }));
        answer.await.expect("the reactor runs as long as the control plane")
    }

    fn push(&self, mut command: Box<dyn Command>) {
        while let Err(back) = self.queue.push(command) {
            command = back;
            self.waker.wake();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.waker.wake();
    }
}

impl Commands {
    /// The next command.
    pub fn pop(&self) -> Option<Box<dyn Command>> {
        self.queue.pop()
    }

    /// Whether none waits. The last look before sleep.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
