//! Disks that lose, tear and reorder what was not flushed, and metadata that keeps a prefix of what was not acknowledged.

use super::super::*;
use super::BLOCK;
use crate::ports::{Memory, OperatorAnswer};
use crate::types::Extent;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

type Local = LocalIo<Vec<u8>, Rc<[u8]>>;

/// A disk with a volatile cache.
#[derive(Default)]
pub struct Disk {
    /// What a read returns.
    pub current: HashMap<u64, [u8; BLOCK]>,
    pub durable: HashMap<u64, [u8; BLOCK]>,
    /// Written (or being written) and not flushed: a crash keeps any of these versions.
    pub volatile: HashMap<u64, Vec<[u8; BLOCK]>>,
}

impl Disk {
    pub fn versions(io: &Local) -> Vec<(u64, [u8; BLOCK])> {
        match io {
            LocalIo::Write { extent, data, .. } => {
                assert_eq!(data.len(), extent.blocks as usize * BLOCK, "a write has its extent's size");
                let blocks = data.chunks(BLOCK).map(|block| block.try_into().unwrap());
                extent.range().zip(blocks).collect()
            }
            LocalIo::WriteZeroes { extent, .. } | LocalIo::Unmap { extent } => {
                extent.range().map(|lba| (lba, [0; BLOCK])).collect()
            }
            LocalIo::Read { .. } | LocalIo::Flush => Vec::new(),
        }
    }

    pub fn read(&self, extent: Extent) -> Vec<u8> {
        extent.range().flat_map(|lba| self.current.get(&lba).copied().unwrap_or([0; BLOCK])).collect()
    }

    /// What was there before.
    pub fn put(&mut self, lba: u64, block: [u8; BLOCK]) {
        self.current.insert(lba, block);
        self.durable.insert(lba, block);
    }

    pub fn crash(&mut self, chance: &mut ChaCha8Rng) {
        let mut touched: Vec<_> = std::mem::take(&mut self.volatile).into_iter().collect();
        touched.sort_by_key(|(lba, _)| *lba);
        for (lba, versions) in touched {
            let pick = chance.next_u32() as usize % (versions.len() + 1);
            if let Some(version) = versions.get(pick) {
                self.durable.insert(lba, *version);
            }
        }
        self.current = self.durable.clone();
    }
}

pub enum Pending {
    Local(VolumeId, Local, LocalToken, /** versions a flush makes durable */ Vec<(u64, [u8; BLOCK], usize)>),
}

/// How a host's request ended, and a read's buffer.
type HostAnswer = (Result<(), HostError>, Option<Vec<u8>>);

/// Ports over the model.
pub struct World {
    pub chance: ChaCha8Rng,
    pub disks: BTreeMap<VolumeId, Disk>,
    pub pending: Vec<Pending>,
    pub meta: HashMap<String, Vec<u8>>,
    /// Metadata writes so far.
    pub metas: u64,
    pub meta_pending: VecDeque<(String, Vec<u8>, MetaToken)>,
    pub statuses: Vec<(LinkId, StreamStatus)>,
    pub messages: Vec<(LinkId, Message)>,
    pub answers: HashMap<u64, Result<OperatorAnswer, OperatorError>>,
    pub hosts: HashMap<u64, HostAnswer>,
    pub logged: Vec<String>,
    /// Pairs whose volume hosts see otherwise.
    pub changed: Vec<PairId>,
    pub alloc_fails: bool,
    /// Errors for the next writes and flushes of a volume.
    pub failing: Option<(VolumeId, u32)>,
    /// Only its flushes fail.
    pub failing_flushes_only: bool,
    /// As page caches do: what a failing flush could not make durable is forgotten, and the next flush succeeds.
    pub failing_forgets: bool,
    /// Metadata does not become durable.
    pub holds_meta: bool,
    /// What every volume has by now, where that is told.
    pub volume_blocks: Option<u64>,
}

impl Memory for World {
    type Buf = Vec<u8>;
    type Shared = Rc<[u8]>;

    fn alloc(&mut self, bytes: usize) -> Option<Vec<u8>> {
        if self.alloc_fails && self.chance.next_u32().is_multiple_of(8) {
            return None;
        }
        Some(vec![0xa5; bytes])
    }

    fn freeze(&mut self, buf: Vec<u8>, bytes: usize) -> Rc<[u8]> {
        buf[..bytes].into()
    }
}

impl Ports for World {
    fn local(&mut self, volume: VolumeId, io: Local, token: LocalToken) {
        let disk = self.disks.entry(volume).or_default();
        for (lba, version) in Disk::versions(&io) {
            disk.volatile.entry(lba).or_default().push(version);
        }
        let flushed = match io {
            // What had completed when the flush was submitted: the current content, and how many versions that covers.
            LocalIo::Flush => {
                let each = disk.volatile.iter().filter_map(|(lba, versions)| {
                    disk.current.get(lba).map(|current| (*lba, *current, versions.len()))
                });
                each.collect()
            }
            _ => Vec::new(),
        };
        self.pending.push(Pending::Local(volume, io, token, flushed));
    }

    fn complete_host(&mut self, token: HostToken, outcome: Result<(), HostError>, buf: Option<Vec<u8>>) {
        self.hosts.insert(token.0, (outcome, buf));
    }

    fn transmit(&mut self, _: LinkId, _: SocketAddr, _: Vec<u8>, _: usize, _: usize) {}

    fn persist(&mut self, key: &str, value: &[u8], token: MetaToken) {
        self.metas += 1;
        self.meta_pending.push_back((key.to_owned(), value.to_owned(), token));
    }

    fn recall(&self, key: &str) -> Option<Vec<u8>> {
        let asked = self.meta_pending.iter().rev().find(|(pending, ..)| pending == key).map(|(_, value, _)| value);
        asked.or_else(|| self.meta.get(key)).cloned()
    }

    fn answer_operator(&mut self, ticket: Ticket, answer: Result<OperatorAnswer, OperatorError>) {
        self.answers.insert(ticket.0, answer);
    }

    fn volume_changed(&mut self, pair: PairId) {
        self.changed.push(pair);
    }

    fn volume_blocks(&self, _: VolumeId) -> Option<u64> {
        self.volume_blocks
    }

    fn log(&mut self, line: std::fmt::Arguments<'_>) {
        self.logged.push(line.to_string());
    }
}

impl Downlink for World {
    fn send_status(&mut self, link: LinkId, status: StreamStatus) {
        self.statuses.push((link, status));
    }

    fn send_message(&mut self, link: LinkId, message: Message) {
        self.messages.push((link, message));
    }
}
