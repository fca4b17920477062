//! Block devices: malloc, null, uring, error, delay, and the replica device.
//!
//! A block device (bdev) has one *home core*. All that changes while it works lives in that core's [`BlockLayer`], which no
//! other thread touches: no locks. Requests from connections on other cores reach it by the reactors' rings.
//!
//! | module | what it is | who calls it |
//! | --- | --- | --- |
//! | [`io`] | requests, completions, errors | everybody |
//! | [`catalog`] | the control plane's list: names, identities, claims, what `save_config` needs | control plane |
//! | [`layer`] | one core's bdevs at work | [`percore`] |
//! | [`device`] | what a kind of bdev implements | the kinds |
//! | [`malloc`], [`null`], [`uring`] | media | [`catalog`] makes them |
//! | [`error`], [`delay`] | faults, stacked on any bdev | [`catalog`] makes them |
//! | [`replica`] | remote copy on top of a bdev: the glue between [`longrun_copy`]'s engine and this core's devices and sockets | [`percore`] |
//! | [`percore`] | all of it for one reactor: [`Core`] | reactor |
//! | [`faults`] | what each fault of each device leads to, and the test that shows it | reader |
//!
//! **How a bdev comes to be.** The control plane calls [`Catalog::create`](catalog::Catalog::create), which checks the
//! parameters, takes the memory or opens the file (this may block), claims the base, and gives a [`Device`](device::Device)
//! that is `Send`. The reactor of the home core installs it ([`Core::install`](percore::Core::install)). The other way round
//! to delete it.
//!
//! **How a request runs.** [`Core::submit`](percore::Core::submit) gives it to its device; a stacked device gives it on to its
//! base. Each step goes through one work list, so nothing re-enters and a stack's depth costs no call depth. Ends are
//! collected as [`IoDone`](io::IoDone) until the reactor drains them. In steady state no request allocates.

pub mod catalog;
pub mod delay;
pub mod device;
pub mod error;
pub mod faults;
pub mod io;
mod known;
pub mod layer;
pub mod malloc;
pub mod null;
pub mod percore;
pub mod replica;
pub mod stats;
#[cfg(test)]
mod testing;
pub mod uring;

pub use catalog::Catalog;
pub use io::{BdevId, Io, IoDone, IoError, IoType, Origin};
pub use layer::BlockLayer;
pub use percore::Core;
