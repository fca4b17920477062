//! The built-in host's TCP connections, each driven by a task: the admin queue, which brings its controller up and keeps it,
//! and the I/O queue pairs, which commands are handed to.
//!
//! All connections of a host live on one thread, so nothing here is shared between threads.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use longrun_checker::HostTime;
use longrun_nvmf::host::{
    Command, Completion, Controller, ControllerDescription, ControllerEvent, HostError, Queue, QueueEvent, QueueOptions,
};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::clock::HostClock;

/// Bytes taken from the socket at a time.
const READ_BYTES: usize = 256 << 10;

/// Why a queue pair cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// TCP says no.
    #[error("{to}: {why}")]
    Tcp {
        /// Where to.
        to: SocketAddr,
        /// Why.
        why: String,
    },
    /// The target says no, or broke the rules.
    #[error(transparent)]
    Nvme(#[from] HostError),
    /// The connection ended, with the target or on its own.
    #[error("the connection ended")]
    Ended,
}

/// A command's end, and when the host knew it.
#[derive(Debug)]
pub struct Answer {
    /// After the answer was parsed.
    pub at: HostTime,
    /// What it says.
    pub completion: Completion,
}

struct Request {
    command: Command,
    answer: oneshot::Sender<Answer>,
}

/// A TCP connection and what has yet to be sent over it.
struct Pipe {
    stream: TcpStream,
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
}

impl Pipe {
    async fn open(to: SocketAddr) -> Result<Self, ConnectionError> {
        let tcp = |error: io::Error| ConnectionError::Tcp { to, why: error.to_string() };
        let stream = TcpStream::connect(to).await.map_err(tcp)?;
        stream.set_nodelay(true).map_err(tcp)?;
        Ok(Pipe { stream, output: Vec::new(), sent: 0, input: vec![0; READ_BYTES] })
    }

    /// Until there is something to read, or room for what has yet to be sent.
    async fn ready(&self) -> Result<(), ConnectionError> {
        let waiting = self.sent < self.output.len();
        let interest = if waiting { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.stream.ready(interest).await.map(drop).map_err(|_| ConnectionError::Ended)
    }

    /// Sends what the socket takes of what there is, asking `more` for it.
    fn write(&mut self, mut more: impl FnMut() -> Vec<u8>) -> Result<(), ConnectionError> {
        loop {
            if self.sent == self.output.len() {
                self.output = more();
                self.sent = 0;
                if self.output.is_empty() {
                    return Ok(());
                }
            }
            match self.stream.try_write(self.output.get(self.sent..).unwrap_or_default()) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(ConnectionError::Ended),
            }
        }
    }

    /// What has come; empty if nothing has.
    fn read(&mut self) -> Result<&[u8], ConnectionError> {
        match self.stream.try_read(&mut self.input) {
            Ok(0) => Err(ConnectionError::Ended),
            Ok(bytes) => Ok(self.input.get(..bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(&[]),
            Err(_) => Err(ConnectionError::Ended),
        }
    }
}

/// A controller's admin connection. Dropping it closes the connection, and with it the controller ends.
pub struct Admin {
    _keep: oneshot::Sender<()>,
}

impl Admin {
    /// Connects and brings the controller up; to be called on a `LocalSet`.
    ///
    /// # Errors
    ///
    /// If there is nobody at `to`, or the target refuses.
    pub async fn open(
        to: SocketAddr,
        options: QueueOptions,
        io_queues: u16,
    ) -> Result<(Self, ControllerDescription), ConnectionError> {
        let mut pipe = Pipe::open(to).await?;
        let mut controller = Controller::new(options, io_queues);
        let description = loop {
            pipe.write(|| controller.take_output())?;
            match controller.poll() {
                Some(ControllerEvent::Ready(description)) => break description,
                Some(ControllerEvent::Failed(error)) => return Err(error.into()),
                Some(_) => continue,
                None => {}
            }
            pipe.ready().await?;
            controller.receive(pipe.read()?);
        };
        let (keep, dropped) = oneshot::channel();
        tokio::task::spawn_local(async move {
            tokio::select! {
                _ = dropped => {}
                // The I/O queues learn by themselves that the controller has ended.
                _ = keep_up(pipe, controller) => {}
            }
        });
        Ok((Admin { _keep: keep }, description))
    }
}

/// Answers what the controller has to say, until it ends.
async fn keep_up(mut pipe: Pipe, mut controller: Controller) -> Result<(), ConnectionError> {
    loop {
        while let Some(event) = controller.poll() {
            if let ControllerEvent::Failed(error) = event {
                return Err(error.into());
            }
        }
        pipe.write(|| controller.take_output())?;
        pipe.ready().await?;
        controller.receive(pipe.read()?);
    }
}

/// A connected I/O queue pair. Clones are the same one; when the last is dropped it is closed.
#[derive(Clone)]
pub struct Connection {
    requests: mpsc::UnboundedSender<Request>,
}

impl Connection {
    /// Connects a queue pair; to be called on a `LocalSet`.
    ///
    /// # Errors
    ///
    /// If there is nobody at `to`, or the target refuses.
    pub async fn open(to: SocketAddr, options: QueueOptions, clock: HostClock) -> Result<Self, ConnectionError> {
        let pipe = Pipe::open(to).await?;
        let (requests, asked) = mpsc::unbounded_channel();
        let (connected, is_connected) = oneshot::channel();
        let task = Driver {
            pipe,
            commands_max: usize::from(options.entries).saturating_sub(1),
            queue: Queue::new(options),
            requests: asked,
            answers: HashMap::new(),
            next_token: 0,
            connected: Some(connected),
            clock,
        };
        tokio::task::spawn_local(task.run());
        is_connected.await.unwrap_or(Err(ConnectionError::Ended))?;
        Ok(Connection { requests })
    }

    /// Sends a command, when the queue has room, and waits for its end.
    ///
    /// # Errors
    ///
    /// If the connection ends first: whether the command was carried out is then unknown.
    pub async fn execute(&self, command: Command) -> Result<Answer, ConnectionError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { command, answer }).map_err(|_| ConnectionError::Ended)?;
        answered.await.map_err(|_| ConnectionError::Ended)
    }
}

struct Driver {
    pipe: Pipe,
    queue: Queue,
    commands_max: usize,
    requests: mpsc::UnboundedReceiver<Request>,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    next_token: u64,
    /// Taken when Connect was answered.
    connected: Option<oneshot::Sender<Result<(), ConnectionError>>>,
    clock: HostClock,
}

impl Driver {
    /// Until the connection or its last user is gone. Whoever waits for an answer then learns it from the dropped channel.
    async fn run(mut self) {
        if let Err(error) = self.exchange().await
            && let Some(connected) = self.connected.take()
        {
            let _ = connected.send(Err(error));
        }
    }

    async fn exchange(&mut self) -> Result<(), ConnectionError> {
        loop {
            self.take_events()?;
            self.pipe.write(|| self.queue.take_output())?;
            let room = self.connected.is_none() && self.answers.len() < self.commands_max;
            tokio::select! {
                ready = self.pipe.ready() => {
                    ready?;
                    self.queue.receive(self.pipe.read()?);
                }
                request = self.requests.recv(), if room => {
                    let Some(request) = request else { return Ok(()) };
                    self.submit(request);
                    // What else is there goes out in the same send.
                    while self.answers.len() < self.commands_max && let Ok(request) = self.requests.try_recv() {
                        self.submit(request);
                    }
                }
            }
        }
    }

    fn submit(&mut self, request: Request) {
        let token = self.next_token;
        self.next_token += 1;
        // Without an entry in `answers` the channel is dropped, and its owner told that the command has no end.
        if self.queue.submit(request.command, token).is_ok() {
            self.answers.insert(token, request.answer);
        }
    }

    fn take_events(&mut self) -> Result<(), ConnectionError> {
        while let Some(event) = self.queue.poll() {
            match event {
                QueueEvent::Connected { .. } => {
                    if let Some(connected) = self.connected.take() {
                        let _ = connected.send(Ok(()));
                    }
                }
                QueueEvent::Done(completion) => {
                    if let Some(answer) = self.answers.remove(&completion.token) {
                        let _ = answer.send(Answer { at: self.clock.now(), completion });
                    }
                }
                QueueEvent::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}
