//! Everything of this crate that one reactor holds.

pub mod token;

use std::collections::BTreeMap;

use longrun_copy::types::{Mono, Now};
use longrun_hal::{Arena, Completion, Uring};

use crate::device::{Control, ControlError, Device, Hardware};
use crate::io::{BdevId, Io, IoDone, Origin};
use crate::layer::{BlockLayer, TakeError};
use crate::replica::{Outbox, Sockets};
use crate::stats::{BdevStats, ResetMode};

/// One core's bdevs, copy engine and links.
///
/// The reactor calls, each turn: [`Core::on_completion`] for what its ring brought ([`token::is_ours`]), [`Core::submit`] for
/// hosts' requests, [`Core::turn`] once at the end, [`Core::drain`] for requests that ended, [`Core::outbox`] for the control
/// plane; and sleeps no longer than to [`Core::next_timeout`].
pub struct Core {
    arena: Arena,
    layer: BlockLayer,
    sockets: Sockets,
    outbox: Outbox,
    metadata: BTreeMap<String, Vec<u8>>,
}

impl Core {
    /// A core without bdevs. `metadata` is what was made durable by this core before ([`Outbox::persists`]).
    pub fn new(arena: Arena, metadata: BTreeMap<String, Vec<u8>>) -> Core {
        Core { arena, layer: BlockLayer::new(), sockets: Sockets::default(), outbox: Outbox::default(), metadata }
    }

    /// The core's memory.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Puts a device to work here.
    pub fn install(&mut self, device: Device) {
        self.layer.install(device);
    }

    /// Takes a device from here; `Busy` until its requests have ended.
    pub fn take(&mut self, bdev: BdevId) -> Result<Device, TakeError> {
        self.layer.take(bdev)
    }

    /// A bdev's counters; what `reset` says is set to zero afterwards.
    pub fn stats(&mut self, bdev: BdevId, reset: ResetMode) -> Option<BdevStats> {
        let stats = self.layer.stats(bdev);
        self.layer.reset_stats(bdev, reset);
        stats
    }

    /// Changes a device's behaviour.
    pub fn control(&mut self, now: Now, uring: &mut Uring, bdev: BdevId, control: Control) -> Result<(), ControlError> {
        let mut hardware = Hardware { now: now.mono, uring, arena: &self.arena };
        self.layer.control(&mut hardware, bdev, control)
    }

    /// Starts a host's request; it ends in [`Core::drain`] with `Origin::Host(origin)`.
    pub fn submit(&mut self, now: Now, uring: &mut Uring, bdev: BdevId, io: Io, origin: u64) {
        let mut hardware = Hardware { now: now.mono, uring, arena: &self.arena };
        self.layer.submit(&mut hardware, bdev, io, Origin::Host(origin));
    }

    /// Something on the ring ended whose token [`token::is_ours`].
    pub fn on_completion(&mut self, now: Now, uring: &mut Uring, completion: Completion) {
        let mut hardware = Hardware { now: now.mono, uring, arena: &self.arena };
        if token::class(completion.token) == token::CLASS_BDEV {
            self.layer.on_completion(&mut hardware, completion);
        }
    }

    /// The end of a turn: timers, and what the engine has to send.
    pub fn turn(&mut self, now: Now, uring: &mut Uring) {
        let mut hardware = Hardware { now: now.mono, uring, arena: &self.arena };
        self.layer.tick(&mut hardware);
        self.sockets.tick(uring, &self.arena, now.mono);
    }

    /// When [`Core::turn`] has something to do next, even if nothing else happens.
    pub fn next_timeout(&self) -> Option<Mono> {
        [self.layer.next_timeout(), self.sockets.next_timeout()].into_iter().flatten().min()
    }

    /// Hosts' requests that ended.
    pub fn drain(&mut self, out: &mut Vec<IoDone>) {
        while let Some(done) = self.layer.pop_done() {
            out.push(done);
        }
    }

    /// What the engine has for the control plane; take it all.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }
}
