//! The host's side: queue pairs as machines that turn commands into bytes and bytes into completions.
//!
//! Made for the demo, the tests and load tools; it allocates a buffer per command. [`Queue`] is one TCP connection, admin or
//! I/O. `Controller` drives an admin queue through the whole bring-up and then gives it back ready for use.
//!
//! ```text
//! let mut queue = Queue::new(QueueOptions::io(...));
//! loop {
//!     write queue.take_output() to the socket;
//!     while let Some(event) = queue.poll() { .. }          // Connected, Done, AsyncEvent, Failed
//!     queue.submit(Command::write(nsid, lba, data, false), token)?;
//!     queue.receive(bytes from the socket);
//! }
//! ```

mod command;
mod queue;

pub use command::{Command, Transfer};
pub use queue::{Completion, HostError, Queue, QueueEvent, QueueFull, QueueOptions};
