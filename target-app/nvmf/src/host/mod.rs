//! The host's side: queue pairs as machines that turn commands into bytes and bytes into completions.
//!
//! Made for the demo, the tests and load tools; it allocates a buffer per command. [`Queue`] is one TCP connection, admin or
//! I/O. [`Controller`] is an admin queue that brings its controller up by itself and says what there is.
//!
//! ```text
//! let mut admin = Controller::new(QueueOptions::admin(host, host_id, subsystem), 4);
//! // socket <- admin.take_output(), admin.receive(<- socket), until admin.poll() gives Ready(description)
//! let mut queue = Queue::new(admin.options().io(1, 128, description.cntlid, description.in_capsule_bytes));
//! loop {
//!     write queue.take_output() to the socket;
//!     queue.receive(bytes from the socket);
//!     while let Some(event) = queue.poll() { .. }          // Connected, Done, Failed
//!     queue.submit(Command::write(nsid, lba, blocks, data, false), token)?;
//! }
//! ```

mod command;
mod controller;
mod queue;

pub use command::{Command, Transfer};
pub use controller::{Controller, ControllerDescription, ControllerEvent, DiscoveredPath, NamespaceInfo};
pub use queue::{Completion, HostError, Queue, QueueEvent, QueueFull, QueueOptions};
