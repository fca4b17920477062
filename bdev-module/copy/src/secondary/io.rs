//! How the machines of a group submit: a token for everything under way, and what it was.

use super::Downlink;
use super::view::ViewOp;
use crate::journal::device::LogPorts;
use crate::ports::{HostToken, LocalIo, LocalToken, Memory, Owner};
use crate::types::{GroupId, Mono, Now, PairId, VolumeId};
use std::collections::HashMap;

/// What a local I/O or metadata write was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// The journal's superblock is being read.
    SuperRead,
    /// It is being written, at the first opening.
    SuperWrite,
    /// And flushed.
    SuperFlush,
    /// What an earlier process may have left unflushed is being made durable.
    OpenFlush,
    /// The journal is being searched for its end.
    Scan,
    /// A piece of the journal block in this lane is being written.
    BatchWrite(u8),
    /// The journal is being flushed behind it.
    BatchFlush,
    /// The journal is being read again, to be applied.
    Replay,
    /// A record of this round is being written to its volume.
    Apply(u32),
    /// A volume is being flushed for a checkpoint.
    ApplyFlush(VolumeId),
    /// A volume is being read for the answer to this question.
    Ask(u64),
    /// The overlay is being opened.
    OverlayOpen,
    /// A piece of an overlay's block is being written.
    OverlayWrite,
    /// The overlay is being flushed behind it.
    OverlayFlush,
    /// What a granule holds is being read from its volume, before it is overwritten.
    OverlayRead(u64),
    /// The overlay is being read for what goes back.
    RestoreRead,
    /// A granule goes back to its volume.
    Restore(u64),
    /// A volume is being flushed behind that.
    RestoreFlush,
    /// The journal is being read for what a takeover throws away.
    Discard,
    /// The pair's volume is being read to see whether it is empty.
    Blank(PairId),
    /// A host's request on a taken-over volume.
    Host(HostToken),
    /// For a test view.
    View(ViewOp),
    /// The group's metadata is being made durable.
    Meta,
    /// The superblock of a deleted group is being zeroed.
    Wipe,
    /// And flushed.
    WipeFlush,
}

/// Everything under way.
#[derive(Default)]
pub(crate) struct Tokens {
    last: u64,
    waiting: HashMap<u64, (GroupId, Op)>,
}

impl Tokens {
    pub(crate) fn issue(&mut self, group: GroupId, op: Op) -> LocalToken {
        self.last += 1;
        self.waiting.insert(self.last, (group, op));
        LocalToken { owner: Owner::Secondary, id: self.last }
    }

    pub(crate) fn redeem(&mut self, token: LocalToken) -> Option<(GroupId, Op)> {
        self.waiting.remove(&token.id)
    }
}

/// The world as one group sees it during one call.
pub(crate) struct Io<'a, P> {
    pub(crate) now: Now,
    pub(crate) ports: &'a mut P,
    pub(crate) tokens: &'a mut Tokens,
    pub(crate) group: GroupId,
}

impl<P: Downlink> Io<'_, P> {
    pub(crate) fn submit(&mut self, op: Op, volume: VolumeId, io: LocalIo<P::Buf, P::Shared>) {
        let token = self.tokens.issue(self.group, op);
        self.ports.local(volume, io, token);
    }

    pub(crate) fn persist(&mut self, key: &str, value: &[u8]) -> LocalToken {
        let token = self.tokens.issue(self.group, Op::Meta);
        self.ports.persist(key, value, token);
        token
    }
}

impl<P: Downlink> Memory for Io<'_, P> {
    type Buf = P::Buf;
    type Shared = P::Shared;

    fn alloc(&mut self, bytes: usize) -> Option<P::Buf> {
        self.ports.alloc(bytes)
    }

    fn freeze(&mut self, buf: P::Buf, bytes: usize) -> P::Shared {
        self.ports.freeze(buf, bytes)
    }
}

impl<P: Downlink> LogPorts<Op> for Io<'_, P> {
    fn mono(&self) -> Mono {
        self.now.mono
    }

    fn submit_log(&mut self, purpose: Op, volume: VolumeId, io: LocalIo<P::Buf, P::Shared>) {
        self.submit(purpose, volume, io);
    }
}
