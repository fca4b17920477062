//! One queue pair of the built-in host: a TCP connection, driven by a task, that commands are handed to.
//!
//! All connections of a host live on one thread, so nothing here is shared between threads.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use longrun_checker::HostTime;
use longrun_nvmf::host::{Command, Completion, HostError, Queue, QueueEvent, QueueOptions};
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

/// A connected queue pair. Clones are the same one; when the last is dropped it is closed.
#[derive(Clone)]
pub struct Connection {
    requests: mpsc::UnboundedSender<Request>,
    cntlid: u16,
    bytes_sent: Rc<Cell<u64>>,
}

impl Connection {
    /// Connects a queue pair; to be called on a `LocalSet`.
    ///
    /// # Errors
    ///
    /// If there is nobody at `to`, or the target refuses.
    pub async fn open(to: SocketAddr, options: QueueOptions, clock: HostClock) -> Result<Self, ConnectionError> {
        let tcp = |error: io::Error| ConnectionError::Tcp { to, why: error.to_string() };
        let stream = TcpStream::connect(to).await.map_err(tcp)?;
        stream.set_nodelay(true).map_err(tcp)?;
        let (requests, asked) = mpsc::unbounded_channel();
        let (connected, is_connected) = oneshot::channel();
        let bytes_sent = Rc::new(Cell::new(0));
        let task = Driver {
            stream,
            commands_max: usize::from(options.entries).saturating_sub(1),
            queue: Queue::new(options),
            requests: asked,
            answers: HashMap::new(),
            next_token: 0,
            connected: Some(connected),
            output: Vec::new(),
            sent: 0,
            clock,
            bytes_sent: Rc::clone(&bytes_sent),
        };
        tokio::task::spawn_local(task.run());
        let cntlid = is_connected.await.unwrap_or(Err(ConnectionError::Ended))?;
        Ok(Connection { requests, cntlid, bytes_sent })
    }

    /// The controller that Connect answered with.
    pub fn cntlid(&self) -> u16 {
        self.cntlid
    }

    /// Bytes that have left for the socket.
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent.get()
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
    stream: TcpStream,
    queue: Queue,
    commands_max: usize,
    requests: mpsc::UnboundedReceiver<Request>,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    next_token: u64,
    /// Taken when Connect was answered.
    connected: Option<oneshot::Sender<Result<u16, ConnectionError>>>,
    output: Vec<u8>,
    sent: usize,
    clock: HostClock,
    bytes_sent: Rc<Cell<u64>>,
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
        let mut buffer = vec![0; READ_BYTES];
        loop {
            self.take_events()?;
            self.write()?;
            let room = self.connected.is_none() && self.answers.len() < self.commands_max;
            let interest = if self.sent < self.output.len() {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            tokio::select! {
                ready = self.stream.ready(interest) => {
                    if ready.map_err(|_| ConnectionError::Ended)?.is_readable() {
                        self.read(&mut buffer)?;
                    }
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
                QueueEvent::Connected { cntlid } => {
                    if let Some(connected) = self.connected.take() {
                        let _ = connected.send(Ok(cntlid));
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

    fn write(&mut self) -> Result<(), ConnectionError> {
        loop {
            if self.sent == self.output.len() {
                self.output = self.queue.take_output();
                self.sent = 0;
                if self.output.is_empty() {
                    return Ok(());
                }
            }
            match self.stream.try_write(self.output.get(self.sent..).unwrap_or_default()) {
                Ok(bytes) => {
                    self.sent += bytes;
                    self.bytes_sent.set(self.bytes_sent.get() + bytes as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(ConnectionError::Ended),
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), ConnectionError> {
        match self.stream.try_read(buffer) {
            Ok(0) => Err(ConnectionError::Ended),
            Ok(bytes) => {
                self.queue.receive(buffer.get(..bytes).unwrap_or_default());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(ConnectionError::Ended),
        }
    }
}
