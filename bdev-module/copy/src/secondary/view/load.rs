//! What the volumes lack of the cut: the journal's records behind them go to the store, in order.

use super::store::pieces;
use super::tasks::{Data, From, Work};
use super::{Stage, View};
use crate::journal::walk::{Next, Walk};
use crate::ports::OperatorAnswer;
use crate::secondary::Downlink;
use crate::secondary::group::Group;
use crate::secondary::io::{Io, Op};
use crate::types::{Extent, PairId};

/// The journal being read.
pub(super) struct Load {
    pub(super) walk: Walk<Op>,
    until: u64,
    /// Pieces of the last block that are not in the store yet.
    pub(super) left: usize,
}

impl Load {
    pub(super) fn new(walk: Walk<Op>, until: u64) -> Load {
        Load { walk, until, left: 0 }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> View<B, S> {
    /// Goes on with it, one block of the journal at a time.
    pub(super) fn load_on<P: Downlink<Buf = B, Shared = S>>(
        &mut self,
        group: Option<&mut Group<S>>,
        io: &mut Io<'_, P>,
    ) {
        while !self.is_failed()
            && self.failing.is_none()
            && let Some(load) = &mut self.load
        {
            if load.left > 0 || load.walk.is_reading() {
                return;
            }
            if load.walk.expect().position >= load.until {
                self.load = None;
                self.stage = Stage::Ready;
                if let Some(group) = group {
                    group.is_view_loading = false;
                    io.ports.log(format_args!("group \"{}\": the test view of {} is ready", group.meta.name, self.cut));
                }
                if let Some(ticket) = self.starting.take() {
                    io.ports.answer_operator(ticket, Ok(OperatorAnswer::TestStarted { cut: self.cut }));
                }
                return;
            }
            let (cut, volumes) = (self.cut, &self.volumes);
            let mut found: Vec<(PairId, Extent, u32, Option<Vec<u8>>)> = Vec::new();
            let is_whole = match load.walk.next(io) {
                Next::Wait => {
                    if load.walk.is_reading() {
                        self.in_flight += 1;
                    } else if load.walk.error().is_none() {
                        self.retry_at = Some(io.now.mono.after_ns(super::RETRY_NS));
                    }
                    return;
                }
                Next::End => false,
                Next::Block(info) => {
                    let is_whole = load.walk.entries(&info, |entry, payload| {
                        let head = entry.head;
                        let Some((_, geometry)) = volumes.get(&head.pair) else { return };
                        let bytes = head.extent.blocks as usize * geometry.block_bytes as usize;
                        let is_sized = !head.kind.writes_payload() || payload.len() == bytes;
                        if head.stamp.time <= cut
                            && head.kind.changes_volume()
                            && geometry.holds(head.extent)
                            && is_sized
                        {
                            let data = head.kind.writes_payload().then(|| payload.to_vec());
                            found.push((head.pair, head.extent, geometry.block_bytes, data));
                        }
                    });
                    load.walk.advance(&info);
                    is_whole
                }
            };
            if !is_whole {
                return self.give_up("the journal is damaged: group_get shows where");
            }
            for (pair, extent, block_bytes, data) in found {
                let cut: Vec<_> = pieces(pair, extent, block_bytes).collect();
                if !self.store.reserve(cut.iter().map(|piece| piece.granule), data.is_some()) {
                    return self
                        .give_up("the store is too small for what the volumes lack of that point: give a larger one");
                }
                if let Some(load) = &mut self.load {
                    load.left += cut.len();
                }
                for piece in cut {
                    let work = match &data {
                        None => Work::Zero(From::Journal, piece.run),
                        Some(data) => {
                            let start = piece.offset as usize * block_bytes as usize;
                            let bytes = piece.run.blocks as usize * block_bytes as usize;
                            Work::Put(From::Journal, piece.run, Data::Bytes(data[start..start + bytes].to_vec()))
                        }
                    };
                    self.add_task(piece.granule, work);
                }
            }
            self.run_tasks(io);
        }
    }
}
