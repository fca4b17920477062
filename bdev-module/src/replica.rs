//! Remote copy on top of a bdev: the glue between the copy engine and this core's devices, memory and sockets.
//!
//! A host's request on a replica device takes this way: [`ReplicaBdev`] -> [`Event::Host`] -> the engine stamps it and
//! submits it to the base ([`Ports::local`]) and to its streams in one step -> the base's end comes back as
//! [`Event::LocalDone`] -> the engine answers ([`Ports::complete_host`]) -> the request ends. The payload is one buffer all
//! the way.
//!
//! [`Event::Host`]: longrun_copy::ports::Event::Host
//! [`Event::LocalDone`]: longrun_copy::ports::Event::LocalDone
//! [`Ports::local`]: longrun_copy::ports::Ports::local
//! [`Ports::complete_host`]: longrun_copy::ports::Ports::complete_host

use longrun_copy::types::PairId;

use crate::device::{Bdev, Env, Face, RequestKey};
use crate::io::Io;

mod raw;
mod sockets;
mod wire;
mod world;

pub use raw::Hop;
pub use sockets::{RECEIVE_BYTES_PER_LINK, SocketStats};
pub use wire::{Wire, wire};
pub use world::{ArenaMemory, Outbox, Persist, World};

pub(crate) use sockets::Sockets;
pub(crate) use wire::Parcel;
pub(crate) use world::{host_io, host_token, local_result, volume_of};

/// The device that hosts see of a pair. It has no state: the engine knows the pair's role, order and volume.
pub struct ReplicaBdev {
    pair: PairId,
}

impl ReplicaBdev {
    /// The face of this pair.
    pub fn new(pair: PairId) -> ReplicaBdev {
        ReplicaBdev { pair }
    }
}

impl Bdev for ReplicaBdev {
    fn submit(&mut self, env: &mut Env<'_>, request: RequestKey, io: Io) {
        env.hand_to_copy(Face::Replica, self.pair, request, io);
    }
}

/// The device that hosts see of a pair's secondary volume under test. As stateless: what was written lives in the engine's
/// test view, and is gone with it. Without one every request fails.
pub struct ViewBdev {
    pair: PairId,
}

impl ViewBdev {
    /// The test's face of this pair.
    pub fn new(pair: PairId) -> ViewBdev {
        ViewBdev { pair }
    }
}

impl Bdev for ViewBdev {
    fn submit(&mut self, env: &mut Env<'_>, request: RequestKey, io: Io) {
        env.hand_to_copy(Face::View, self.pair, request, io);
    }
}
