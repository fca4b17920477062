//! What a kind of bdev implements, and what it may ask of its core.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use longrun_copy::types::{Geometry, Mono, PairId};
use longrun_hal::{Arena, Buf, Completion, Uring};

use crate::error::Injection;
use crate::io::{BdevId, Io, IoError, Origin};
use crate::percore::token;
use crate::stats::BdevStats;

/// Names a request on this core until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey(pub(crate) u32);

/// What this core has for its bdevs to work with.
pub struct Hardware<'a> {
    /// This core's monotonic clock, read once per turn.
    pub now: Mono,
    /// The core's ring.
    pub uring: &'a mut Uring,
    /// The core's memory.
    pub arena: &'a Arena,
}

/// One kind of bdev. Requests come checked against the geometry; each must end exactly once ([`Env::complete`]), in
/// whatever order. `Send`, so that a device without requests can be moved to another core.
pub trait Bdev: Send {
    /// Starts a request.
    fn submit(&mut self, env: &mut Env<'_>, request: RequestKey, io: Io);

    /// Does what its requests have put off to the end of their batch ([`Env::put_off`]).
    fn settle(&mut self, env: &mut Env<'_>) {
        let _ = env;
        unreachable!("a bdev that puts nothing off has nothing to settle");
    }

    /// A request to the base ended ([`Env::submit_base`]).
    fn base_done(&mut self, env: &mut Env<'_>, tag: u32, result: Result<(), IoError>, buf: Option<Buf>) {
        let _ = (env, tag, result, buf);
        unreachable!("a bdev without a base has no requests to one");
    }

    /// An operation on the ring ended ([`Env::ring_token`]).
    fn ring_done(&mut self, env: &mut Env<'_>, tag: u32, completion: Completion) {
        let _ = (env, tag, completion);
        unreachable!("a bdev without ring operations has none that end");
    }

    /// Does what is due: a time that it asked for has come ([`Env::wake_at`]), at this core or at the one it was on before.
    fn tick(&mut self, env: &mut Env<'_>) {
        let _ = env;
        unreachable!("a bdev that asks for no time is not waked");
    }

    /// When the next thing is due; looked at when the device comes to a core.
    fn next_timeout(&self) -> Option<Mono> {
        None
    }

    /// How large the medium is now, in bytes; from here on that is the device's size. `None`: it has no medium that could
    /// have grown.
    fn measure(&mut self) -> Option<std::io::Result<u64>> {
        None
    }

    /// Changes a device's behaviour. `Err` tells the operator why it can't.
    fn control(&mut self, env: &mut Env<'_>, control: Control) -> Result<(), ControlError> {
        let _ = (env, control);
        Err(ControlError::NotAnErrorBdev)
    }
}

/// A change of a device's behaviour while it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// `bdev_error_inject_error`.
    Inject(Injection),
    /// The same with `clear`: nothing fails any more, and what pends fails now.
    ClearInjections,
}

/// Why a control did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Only error bdevs inject.
    #[error("this bdev injects no errors; make an error bdev on top with bdev_error_create and inject there (EE_...)")]
    NotAnErrorBdev,
    /// Gone.
    #[error("there is no such bdev on this core")]
    NoBdev,
}

/// A bdev with its counters, ready to be installed on a core.
pub struct Device {
    pub(crate) id: BdevId,
    pub(crate) geometry: Geometry,
    pub(crate) base: Option<BdevId>,
    pub(crate) bdev: Box<dyn Bdev>,
    pub(crate) stats: BdevStats,
    pub(crate) in_flight: u32,
}

impl Device {
    /// A device at its beginning.
    pub fn new(id: BdevId, geometry: Geometry, base: Option<BdevId>, bdev: Box<dyn Bdev>) -> Device {
        Device { id, geometry, base, bdev, stats: BdevStats::default(), in_flight: 0 }
    }

    /// Its id.
    pub fn id(&self) -> BdevId {
        self.id
    }

    /// Its size.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("id", &self.id)
            .field("geometry", &self.geometry)
            .field("base", &self.base)
            .finish()
    }
}

/// To whom a request's end goes, inside the layer.
#[derive(Debug)]
pub(crate) enum Parent {
    Outside(Origin),
    Device { id: BdevId, tag: u32 },
}

/// A step that waits in the layer's work list.
#[derive(Debug)]
pub(crate) enum Work {
    Submit { to: BdevId, parent: Parent, io: Io },
    Done { request: RequestKey, result: Result<(), IoError>, buf: Option<Buf> },
}

/// Which of a pair's devices a host uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    /// The pair's own.
    Replica,
    /// The test view of its secondary volume.
    View,
}

/// A host's request on a replica device or a test view, on its way to the copy engine.
#[derive(Debug)]
pub(crate) struct CopyRequest {
    /// On which.
    pub face: Face,
    /// The pair.
    pub pair: PairId,
    /// To be answered with.
    pub request: RequestKey,
    /// What is asked.
    pub io: Io,
}

/// What devices asked of their layer.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Steps of requests.
    pub work: VecDeque<Work>,
    /// Requests for the copy engine.
    pub copy: VecDeque<CopyRequest>,
    /// Who has put something off to the end of the batch.
    pub unsettled: Vec<BdevId>,
    /// Who has something to do when, the earliest first.
    pub wakes: BinaryHeap<Reverse<(Mono, BdevId)>>,
}

/// A device's view of its core while it is called.
pub struct Env<'a> {
    /// This core's monotonic clock.
    pub now: Mono,
    /// The core's ring; tokens from [`Env::ring_token`].
    pub uring: &'a mut Uring,
    /// The core's memory.
    pub arena: &'a Arena,
    pub(crate) id: BdevId,
    pub(crate) asked: &'a mut Asked,
}

impl Env<'_> {
    /// Ends a request.
    pub fn complete(&mut self, request: RequestKey, result: Result<(), IoError>, buf: Option<Buf>) {
        self.asked.work.push_back(Work::Done { request, result, buf });
    }

    /// Has [`Bdev::settle`] called once, when the requests that came together have all been started.
    pub fn put_off(&mut self) {
        self.asked.unsettled.push(self.id);
    }

    /// Has [`Bdev::tick`] called once, when it is `at`. Costs log2 of what waits on this core.
    pub fn wake_at(&mut self, at: Mono) {
        self.asked.wakes.push(Reverse((at, self.id)));
    }

    /// Gives a request to the base; [`Bdev::base_done`] is called with `tag` when it has ended.
    pub fn submit_base(&mut self, base: BdevId, tag: u32, io: Io) {
        self.asked.work.push_back(Work::Submit { to: base, parent: Parent::Device { id: self.id, tag }, io });
    }

    /// The token for an operation on the ring, whose end comes to [`Bdev::ring_done`] with `tag`.
    pub fn ring_token(&self, tag: u32) -> u64 {
        token::bdev(self.id, tag)
    }

    /// Hands a host's request to the copy engine.
    pub(crate) fn hand_to_copy(&mut self, face: Face, pair: PairId, request: RequestKey, io: Io) {
        self.asked.copy.push_back(CopyRequest { face, pair, request, io });
    }
}
