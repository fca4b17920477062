//! What the engine may ask of the world.
//!
//! Every call submits and returns; results come back as [`Event`]s in a later turn, so nothing re-enters the engine and
//! a port can be a recorder, the simulator or a device.

use crate::engine::Crossing;
use crate::role::Role;
use crate::types::{Epoch, Extent, Generation, GroupId, LinkId, PairId, Record, VolumeId};
use std::net::SocketAddr;

/// Where payloads live. `Buf` is written by one owner; frozen it becomes `Shared`: immutable, cheap to clone, given back
/// when the last clone is dropped.
pub trait Memory {
    /// A buffer with one owner.
    type Buf: AsRef<[u8]> + AsMut<[u8]> + 'static;
    /// An immutable view that may be held many times.
    type Shared: AsRef<[u8]> + Clone + 'static;

    /// A buffer of exactly `bytes`, content unspecified, aligned for direct I/O. `None` when the pool is exhausted: the
    /// caller waits for a later turn, or drops what the peer will send again.
    fn alloc(&mut self, bytes: usize) -> Option<Self::Buf>;

    /// Makes the first `bytes` of the buffer immutable.
    fn freeze(&mut self, buf: Self::Buf, bytes: usize) -> Self::Shared;
}

/// What a host asks of a replicated volume. Extents were checked against the volume's size.
#[derive(Debug)]
pub enum HostIo<B, S> {
    /// Fill `buf` from the extent.
    Read {
        /// Where.
        extent: Extent,
        /// Of the extent's size.
        buf: B,
    },
    /// Write `data`, all of which is there.
    Write {
        /// Where.
        extent: Extent,
        /// Of the extent's size; immutable from now on.
        data: S,
        /// Durable on the local device before the answer.
        fua: bool,
    },
    /// Write zeroes.
    WriteZeroes {
        /// Where.
        extent: Extent,
        /// Durable on the local device before the answer.
        fua: bool,
    },
    /// Deallocate; the blocks read as zeroes afterwards.
    Unmap {
        /// Where.
        extent: Extent,
    },
    /// Make durable what was answered before.
    Flush,
}

/// What the engine asks of a device that it holds: a pair's volume or a journal.
#[derive(Debug)]
pub enum LocalIo<B, S> {
    /// Fill `buf` from the extent.
    Read {
        /// Where.
        extent: Extent,
        /// Of the extent's size.
        buf: B,
    },
    /// Write `data`.
    Write {
        /// Where.
        extent: Extent,
        /// Of the extent's size.
        data: S,
        /// Durable before it completes.
        fua: bool,
    },
    /// Write zeroes.
    WriteZeroes {
        /// Where.
        extent: Extent,
        /// Durable before it completes.
        fua: bool,
    },
    /// Deallocate (or write zeroes where the medium cannot); the blocks read as zeroes afterwards.
    Unmap {
        /// Where.
        extent: Extent,
    },
    /// Make durable every write that had completed when this was submitted.
    Flush,
}

/// Names a host's request until it is answered; chosen by the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostToken(pub u64);

/// A core of this system, by its engine's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u16);

/// Names a local I/O until it completes; chosen by the engine, carried back unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalToken {
    /// Which machine of the engine waits for it.
    pub owner: Owner,
    /// The machine's own number for it.
    pub id: u64,
}

/// The engine's machines that do I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// The primary roles of this engine.
    Primary,
    /// The secondary roles of this engine.
    Secondary,
}

/// Names a metadata write until it is durable.
pub type MetaToken = LocalToken;

/// Names an operator's request that ends later (pair creation, takeover); chosen by the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// Why a host's request was not done. The embedding maps it to an NVMe status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The local device failed.
    #[error("the local device reported an error")]
    Device,
    /// The local device has no room: a sparse file on a full file system.
    #[error("the local device is full; make room on its file system")]
    NoSpace,
    /// A secondary serves no host I/O before takeover, reads neither: its volumes alone are mid-batch, not a cut.
    #[error("this is a secondary volume; it serves hosts after group_takeover")]
    Secondary,
    /// The pair's first copy was not complete when the group was taken over, so the volume was never a picture of the
    /// primary's.
    #[error("this volume was never consistent: its first copy was not complete at the takeover; delete the pair")]
    NeverConsistent,
    /// A newer generation exists: another site took over.
    #[error("another site took this group over; this volume is fenced")]
    Fenced,
    /// The volume is being handed over to the other site (a planned swap): the host tries again, here or there.
    #[error("the volume is being handed over to the other site; the host tries the other path")]
    Transition,
    /// The request waits in a state that ended.
    #[error("the request was abandoned; the host may retry")]
    Aborted,
}

/// A local device's failure, as much as the engine needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", std::io::Error::from_raw_os_error(*errno))]
pub struct DeviceError {
    /// The errno, positive.
    pub errno: i32,
}

/// No space left on device; disk quota exceeded.
const NO_SPACE: [i32; 2] = [28, 122];

impl From<DeviceError> for HostError {
    fn from(error: DeviceError) -> HostError {
        if NO_SPACE.contains(&error.errno) { HostError::NoSpace } else { HostError::Device }
    }
}

/// What comes back to the engine.
#[derive(Debug)]
pub enum Event<'a, B, S> {
    /// A host's request on a pair's replica device.
    Host {
        /// The pair.
        pair: PairId,
        /// What is asked.
        io: HostIo<B, S>,
        /// To be answered with.
        token: HostToken,
    },
    /// A host's request on the test view of a pair's secondary volume.
    View {
        /// The pair.
        pair: PairId,
        /// What is asked.
        io: HostIo<B, S>,
        /// To be answered with.
        token: HostToken,
    },
    /// A local I/O ended. A read gives its buffer back, whatever the result.
    LocalDone {
        /// As submitted.
        token: LocalToken,
        /// How it ended.
        result: Result<(), DeviceError>,
        /// A read's buffer.
        buf: Option<B>,
    },
    /// A train of datagrams: each but the last of `segment_bytes`.
    Datagrams {
        /// The link whose socket received it.
        link: LinkId,
        /// Who sent it.
        from: SocketAddr,
        /// The datagrams back to back; decrypted in place.
        train: &'a mut [u8],
        /// Length of each datagram but the last.
        segment_bytes: usize,
    },
    /// A metadata write is durable.
    Persisted {
        /// As submitted.
        token: MetaToken,
    },
    /// Another core's engine has said something ([`Ports::cross`]).
    Crossed(Crossing<B, S>),
    /// The end of a turn: timers, beacons and what waits to be sent. Given once per turn, after its other events.
    Turn,
}

/// What the engine may ask of the world.
pub trait Ports: Memory {
    /// Submits an I/O to a device that the engine holds. I/O to one device may complete in any order, and out of order
    /// with what was submitted before: the engine orders what must be ordered.
    fn local(&mut self, volume: VolumeId, io: LocalIo<Self::Buf, Self::Shared>, token: LocalToken);

    /// Answers a host. A read gives its buffer back, whatever the outcome.
    fn complete_host(&mut self, token: HostToken, outcome: Result<(), HostError>, buf: Option<Self::Buf>);

    /// Sends the first `bytes` of the buffer as a train of datagrams of `segment_bytes` each (the last may be shorter). With
    /// a [`Spacing`](crate::link::Spacing) of the link they are not its first bytes, but stand apart as that says.
    fn transmit(&mut self, link: LinkId, to: SocketAddr, train: Self::Buf, bytes: usize, segment_bytes: usize);

    /// Brings this to another core's engine, as [`Event::Crossed`]: what is said to one core arrives in the order in which it
    /// was said, and nothing is lost. Called only with links that serve other cores, so an embedding of one core has none.
    fn cross(&mut self, to: CoreId, crossing: Crossing<Self::Buf, Self::Shared>) {
        let _ = crossing;
        unreachable!("no link was made to serve groups of {to:?}");
    }

    /// Makes `key = value` durable, atomically, in the order of the calls; [`Event::Persisted`] tells when.
    fn persist(&mut self, key: &str, value: &[u8], token: MetaToken);

    /// The value that `persist` last made durable (or was last asked to), or `None`. Reads memory, not a disk.
    fn recall(&self, key: &str) -> Option<Vec<u8>>;

    /// Ends an operator's request.
    fn answer_operator(&mut self, ticket: Ticket, answer: Result<OperatorAnswer, crate::engine::OperatorError>);

    /// A record got its stamp and goes to its stream, right after its local I/O was submitted. For those who watch (a
    /// simulator, a trace); a reactor leaves it as it is.
    fn stamped(&mut self, epoch: Epoch, record: &Record<Self::Shared>) {
        let _ = (epoch, record);
    }

    /// This system's part in a group has changed, durably: the group was taken over here, or gave its part up. For the
    /// embedding's own records of it (claims, paths, saved configuration); the engine's own survive by themselves.
    fn role_changed(&mut self, group: GroupId, role: Role, generation: Generation) {
        let _ = (group, role, generation);
    }

    /// How many blocks a device has now, which may be more than when the engine was told of it.
    fn volume_blocks(&self, volume: VolumeId) -> Option<u64> {
        let _ = volume;
        None
    }

    /// Hosts are to see the pair's volume otherwise from here on: under another identity ([`crate::identity::of_pair`]), or
    /// with another size (as the pair's status says).
    fn volume_changed(&mut self, pair: PairId) {
        let _ = pair;
    }

    /// A line for the operator's log: rare, never per I/O.
    fn log(&mut self, line: std::fmt::Arguments<'_>);
}

/// What an operator's request ended in.
#[derive(Clone, Debug)]
pub enum OperatorAnswer {
    /// The pair is in PAIR state; or in COPY state, if its operator asked for a copy: that has begun.
    PairCreated(PairId),
    /// The group's volumes are writable here.
    TakenOver(crate::takeover::LossCertificate),
    /// The group or pair no longer exists here.
    Deleted,
    /// The group's hosts run on locally and durably marked; all its pairs stand at one limit time.
    Suspended {
        /// Everything not later is in the secondary's hands, nothing later is. Without `drained`: nothing later was
        /// stamped, but the secondary may stand earlier.
        at: crate::types::Time,
        /// The secondary has everything up to `at`. Otherwise it could not be reached in time: it stays at an earlier
        /// cut, and what it lacks is marked.
        drained: bool,
    },
    /// Hosts may use the group's test view.
    TestStarted {
        /// The point of history that it shows.
        cut: crate::types::Time,
    },
    /// The group is no longer under test, and the store is free.
    TestStopped,
    /// Hosts may use so many blocks of the pair's volume.
    Resized {
        /// In all.
        blocks: u64,
    },
    /// The old primary is a secondary of the newer generation.
    Demoted {
        /// That generation.
        generation: crate::types::Generation,
    },
    /// The two sites have exchanged their parts; every write that a host was told is done is at the new primary.
    Swapped {
        /// The generation that the new primary began.
        generation: crate::types::Generation,
    },
    /// A swap was abandoned: this system serves hosts again.
    Abandoned {
        /// The generation that it goes on with.
        generation: crate::types::Generation,
    },
}
