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
pub type Command = Box<dyn FnOnce(&mut Reactor) + Send>;

/// Slots of the queue; whoever finds it full tries again.
const QUEUE_SLOTS: usize = 4096;

/// A handle to one reactor; clones share it.
#[derive(Clone)]
pub struct ReactorHandle {
    queue: Arc<ArrayQueue<Command>>,
    waker: Waker,
}

/// The reactor's end.
pub struct Commands {
    queue: Arc<ArrayQueue<Command>>,
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
        let mut command: Command = Box::new(command);
        while let Err(back) = self.queue.push(command) {
            command = back;
            self.waker.wake();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.waker.wake();
    }

    /// Has the reactor run `command` and waits for what it returns.
    ///
    /// Panics if the reactor is gone: the program ends its reactors after everything that asks them.
    pub async fn call<R: Send + 'static>(&self, command: impl FnOnce(&mut Reactor) -> R + Send + 'static) -> R {
        let (answer, asked) = oneshot::channel();
        self.post(move |reactor| {
            // The asking task may have been dropped meanwhile; then nobody wants the answer.
            let _ = answer.send(command(reactor));
        });
        asked.await.expect("the reactor runs as long as the control plane")
    }
}

impl Commands {
    /// The next command.
    pub fn pop(&self) -> Option<Command> {
        self.queue.pop()
    }

    /// Whether none waits. The last look before sleep.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
