//! What is in the journal only is read back when it may be applied.

use super::{Applier, Disk, REPLAYED_BLOCKS_MAX};
use crate::journal::walk::Next;
use crate::journal::{Committed, Item};
use crate::secondary::Downlink;
use crate::secondary::io::Io;
use crate::types::Record;

impl<S: AsRef<[u8]> + Clone + 'static> Applier<S> {
    pub(super) fn read_back<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        while let Some(Disk { walk, until }) = &mut self.disk {
            if walk.expect().position >= *until {
                if !walk.is_reading() {
                    self.disk = None;
                }
                return;
            }
            if self.queue.len() >= REPLAYED_BLOCKS_MAX || walk.expect().position >= self.barrier.position {
                return;
            }
            let info = match walk.next(io) {
                Next::Wait => return,
                Next::Block(info) => info,
                Next::End => {
                    self.damaged = Some(walk.expect().position);
                    return;
                }
            };
            let mut items = Vec::new();
            let mut short = false;
            let whole = walk.entries(&info, |entry, payload| {
                let copied = match (entry.head.kind.has_payload(), short) {
                    (_, true) => return,
                    (false, _) => None,
                    (true, _) => match io.ports.alloc(payload.len()) {
                        Some(mut buf) => {
                            buf.as_mut()[..payload.len()].copy_from_slice(payload);
                            Some(io.ports.freeze(buf, payload.len()))
                        }
                        None => {
                            short = true;
                            return;
                        }
                    },
                };
                items.push(Item {
                    record: Record { head: entry.head, payload: copied },
                    epoch: entry.epoch,
                    generation: entry.generation,
                    charged: false,
                });
            });
            if !whole {
                self.damaged = Some(walk.expect().position);
                return;
            }
            // Without memory: again in a later turn.
            if short {
                return;
            }
            walk.advance(&info);
            let after = walk.expect();
            let block = Committed {
                continues: info.continues,
                items,
                end: after.position,
                checksum: after.previous,
                limit: info.limit,
                durable_end: info.durable_end,
            };
            self.queued = block.point();
            self.queue.push_back(block);
        }
    }
}
