//! A secondary for resyncs: takes records in order, answers questions from its volumes, ends copies when it has them.

use super::*;
use crate::digest;
use crate::message::{Content, CopyId};

/// Blocks of a large volume: eight regions of 64 KiB.
pub const LARGE: u64 = 1024;
/// Of one of its regions.
pub const REGION: u64 = 128;

/// The other site.
#[derive(Clone, Default)]
pub struct Site {
    /// As the records that it has leave them.
    pub disks: BTreeMap<PairId, Vec<u8>>,
    pub opens: Vec<OpenStream>,
    pub joins: Vec<(PairId, Content)>,
    pub ends: Vec<(CopyId, Time)>,
    pub asks: Vec<(PairId, Extent)>,
    pub bookmarks: Vec<String>,
    /// Records that it took, in order.
    pub taken: Vec<RecordHead>,
    /// What it says before a pair has joined.
    pub differs: Vec<Extent>,
    /// Does not answer questions.
    pub is_mute: bool,
    /// The unit under way and its end.
    unit: Option<(u64, Option<Time>)>,
    heard: usize,
}

impl Site {
    /// Takes all that is in the queues, and says so.
    pub fn take_all(&mut self, rig: &mut Rig) {
        let streams: Vec<StreamId> = rig.world.records.keys().copied().collect();
        for stream in streams {
            self.take(rig, stream, usize::MAX);
        }
    }

    /// Takes the first so many records of a stream, and says so.
    pub fn take(&mut self, rig: &mut Rig, stream: StreamId, most: usize) {
        let records: Vec<Record<Bytes>> =
            rig.world.records.get(&stream).into_iter().flatten().take(most).cloned().collect();
        let Some(last) = records.last().map(|record| record.head.stamp.seq) else { return };
        let mut answers = Vec::new();
        for record in records {
            let head = record.head;
            self.taken.push(head);
            let disk = self.disks.entry(head.pair).or_insert_with(|| vec![0; (LARGE * u64::from(BLOCK)) as usize]);
            let range = bytes_of(head.extent);
            match (head.kind, record.payload) {
                (RecordKind::Bookmark, Some(name)) => self.bookmarks.push(String::from_utf8(name.to_vec()).unwrap()),
                (RecordKind::Verify, Some(payload)) => {
                    let digests: Vec<digest::Digest> =
                        payload.chunks(16).map(|digest| digest.try_into().unwrap()).collect();
                    let differing = Some(digest::differing(&disk[range], &digests));
                    let (pair, stream, seq) = (head.pair, head.stamp.stream, head.stamp.seq);
                    let group = rig.show_pair(pair).group;
                    answers.push(Message::Verified { group, pair, stream, seq, differing });
                }
                (_, Some(payload)) => disk[range].copy_from_slice(&payload),
                (_, None) => disk[range].fill(0),
            }
        }
        rig.durable(stream, last.0);
        for answer in answers {
            rig.hear(answer);
        }
    }

    /// Answers what was said since; `false` if there was nothing.
    pub fn answer(&mut self, rig: &mut Rig) -> bool {
        let news: Vec<Did> = rig.world.did[self.heard..].to_vec();
        self.heard = rig.world.did.len();
        let mut answered = false;
        for did in news {
            let Did::Say(said) = did else { continue };
            let answer = match said {
                Message::OpenStream(open) => {
                    self.opens.push(open.clone());
                    self.unit = open.unit.map(|unit| (unit, None)).or(self.unit);
                    Rig::opened(&open)
                }
                Message::JoinPair(join) => {
                    self.joins.push((join.pair, join.content));
                    if !self.differs.is_empty() {
                        let (group, pair, extents) = (join.group, join.pair, self.differs.clone());
                        rig.hear(Message::Differs { group, pair, extents });
                    }
                    Message::PairJoined { group: join.group, pair: join.pair }
                }
                Message::DigestAsk { group, pair, ask, extent, digests } => {
                    self.asks.push((pair, extent));
                    if self.is_mute {
                        continue;
                    }
                    let disk = self.disks.entry(pair).or_insert_with(|| vec![0; (LARGE * u64::from(BLOCK)) as usize]);
                    let differing = Some(digest::differing(&disk[bytes_of(extent)], &digests) as u32);
                    Message::DigestAnswer { group, pair, ask, differing }
                }
                Message::CopyEnd { group, copy, end } => {
                    self.ends.push((copy, end));
                    // Everything that was to be brought is stamped: it has it all when the queues are empty.
                    self.take_all(rig);
                    Message::CopyDone { group, copy }
                }
                _ => continue,
            };
            answered = true;
            rig.hear(answer);
        }
        answered
    }

    /// Devices, metadata and this site answer until nothing happens any more; records are taken.
    pub fn run(&mut self, rig: &mut Rig) {
        loop {
            rig.turn();
            let (local, kept, answered) = (rig.local(), rig.keep(), self.answer(rig));
            let had = rig.world.records.values().any(|records| !records.is_empty());
            self.take_all(rig);
            if !(local || kept || answered || had) {
                return;
            }
        }
    }

    /// Lets time pass, a tenth of a second at a time, while everybody answers.
    pub fn pass(&mut self, rig: &mut Rig, ns: u64) {
        let until = rig.now.mono.after_ns(ns);
        while rig.now.mono < until {
            self.run(rig);
            rig.pass((100 * MS).min(until.since_ns(rig.now.mono)));
        }
        self.run(rig);
    }

    /// A new process, or a new session: what was said before is over.
    pub fn meets(&mut self, rig: &Rig) {
        self.heard = rig.world.did.len();
    }

    pub fn assert_equal(&self, rig: &Rig) {
        for pair in rig.primary.pairs() {
            let disk = &rig.world.disks[&rig.show_pair(pair).volume];
            let theirs = self.disks.get(&pair).cloned().unwrap_or_else(|| vec![0; disk.len()]);
            if let Some(at) = disk.iter().zip(&theirs).position(|(mine, theirs)| mine != theirs) {
                panic!("{pair:?} differs at block {}: {} here, {} there", at / BLOCK as usize, disk[at], theirs[at]);
            }
        }
    }
}

pub fn bytes_of(extent: Extent) -> std::ops::Range<usize> {
    (extent.lba * u64::from(BLOCK)) as usize..(extent.end() * u64::from(BLOCK)) as usize
}

impl Rig {
    pub fn large_config(group: GroupId, name: &str, volume: u32) -> PairConfig {
        let geometry = Geometry { blocks: LARGE, block_bytes: BLOCK };
        PairConfig { geometry, ..Rig::pair_config(group, name, volume) }
    }

    /// Times as an operator would have them.
    pub fn real_times(&mut self) {
        self.primary.config.clear_after_ns = 2 * SECOND;
        self.primary.config.resync_pause_ns = SECOND;
    }

    /// A group of the configuration with large pairs p0.. on volumes 0.., taken up or created.
    pub fn large_group(&mut self, config: GroupConfig, pairs: u32) -> (GroupId, Vec<PairId>) {
        self.real_times();
        let group = self.primary.group_create(self.now, config, &mut self.world).unwrap();
        let create = |rig: &mut Rig, volume: u32| {
            let size = (LARGE * u64::from(BLOCK)) as usize;
            rig.world.disks.entry(VolumeId(volume)).or_default().resize(size, 0);
            let config = Rig::large_config(group, &format!("p{volume}"), volume);
            rig.primary.pair_create(rig.now, config, Ticket(u64::from(volume)), &mut rig.world).unwrap()
        };
        (group, (0..pairs).map(|volume| create(self, volume)).collect())
    }

    /// The same, new and in PAIR state, and its site.
    pub fn large(config: GroupConfig, pairs: u32) -> (Rig, Site, GroupId, Vec<PairId>) {
        let (mut rig, mut site) = (Rig::new(), Site::default());
        let (group, pairs) = rig.large_group(config, pairs);
        site.run(&mut rig);
        for pair in &pairs {
            assert_eq!(rig.state(*pair), PairState::Pair);
        }
        (rig, site, group, pairs)
    }

    /// Another primary suspended the group at the secondary: PSUE, and a resync by itself.
    pub fn stop_group(&mut self, group: GroupId) {
        let stream = self.show(group).streams[0].stream;
        let (subject, refusal) = (self.opening(stream), crate::message::Refusal::UnsentRecords);
        self.hear(Message::Refused { group, subject, refusal, text: "stopped".to_string() });
        assert_eq!(self.show(group).state, PairState::SuspendedError);
    }

    pub fn copies(&self) -> Vec<RecordHead> {
        let copies = self.world.history.iter().map(|record| record.head);
        copies.filter(|head| head.kind == RecordKind::Copy).collect()
    }
}
