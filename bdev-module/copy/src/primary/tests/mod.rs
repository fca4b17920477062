//! A scripted world for the primary: devices, metadata and links that do nothing before they are told to, and remember
//! everything.

mod copying;
mod crashing;
mod devices;
mod marking;
mod opening;
mod operating;
mod properties;
mod restarting;
mod resyncing;
mod secondary;
mod spilling;
mod suspending;
mod writing;

use super::*;
use crate::message::{OpenStream, StreamOpened, Subject};
use crate::ports::{HostError, LocalIo, OperatorAnswer, Ports};
use crate::types::*;
use std::collections::BTreeSet;
use std::rc::Rc;

pub const LINK: LinkId = LinkId(0);
pub const HERE: SystemId = SystemId(11);
pub const THERE: SystemId = SystemId(22);
pub const BLOCK: u32 = 512;
pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;
pub const FIRST_GENERATION: Generation = Generation { number: 1, id: 77, parent: 0 };

/// What happened, in order, as far as order matters.
#[derive(Clone, Debug, PartialEq)]
pub enum Did {
    Local(VolumeId, &'static str, Extent),
    Push(RecordHead),
    Beacon(Beacon),
    Persist(String),
    Durable(String),
    Start(StreamId, Epoch, Seq),
    Drop(StreamId),
    Say(Message),
    Answer(HostToken, Result<(), HostError>),
}

type Bytes = Rc<[u8]>;
type Pending = (VolumeId, LocalIo<Vec<u8>, Bytes>, LocalToken);
type HostAnswer = (Result<(), HostError>, Option<Vec<u8>>);

#[derive(Default)]
pub struct World {
    pub did: Vec<Did>,
    pub disks: BTreeMap<VolumeId, Vec<u8>>,
    pub pending: VecDeque<Pending>,
    pub unkept: VecDeque<(String, Vec<u8>, MetaToken)>,
    pub asked: BTreeMap<String, Vec<u8>>,
    pub durable: BTreeMap<String, Vec<u8>>,
    pub records: BTreeMap<StreamId, Vec<Record<Bytes>>>,
    /// Every record ever pushed, in order.
    pub history: Vec<Record<Bytes>>,
    pub up: bool,
    pub hosts: BTreeMap<u64, HostAnswer>,
    pub operators: BTreeMap<u64, Result<OperatorAnswer, OperatorError>>,
    /// Pairs whose volume hosts see otherwise.
    pub changed: Vec<PairId>,
    pub no_memory: bool,
    pub failing_writes: BTreeSet<VolumeId>,
    pub failing_reads: BTreeSet<VolumeId>,
    pub failing_flushes: BTreeSet<VolumeId>,
}

impl Memory for World {
    type Buf = Vec<u8>;
    type Shared = Bytes;

    fn alloc(&mut self, bytes: usize) -> Option<Vec<u8>> {
        (!self.no_memory).then(|| vec![0xee; bytes])
    }

    fn freeze(&mut self, buf: Vec<u8>, bytes: usize) -> Bytes {
        Rc::from(&buf[..bytes])
    }
}

impl Ports for World {
    fn local(&mut self, volume: VolumeId, io: LocalIo<Vec<u8>, Bytes>, token: LocalToken) {
        let (kind, extent) = match &io {
            LocalIo::Read { extent, .. } => ("read", *extent),
            LocalIo::Write { extent, .. } => ("write", *extent),
            LocalIo::WriteZeroes { extent, .. } => ("zeroes", *extent),
            LocalIo::Unmap { extent } => ("unmap", *extent),
            LocalIo::Flush => ("flush", Extent { lba: 0, blocks: 0 }),
        };
        self.did.push(Did::Local(volume, kind, extent));
        self.pending.push_back((volume, io, token));
    }

    fn complete_host(&mut self, token: HostToken, outcome: Result<(), HostError>, buf: Option<Vec<u8>>) {
        self.did.push(Did::Answer(token, outcome));
        let before = self.hosts.insert(token.0, (outcome, buf));
        assert!(before.is_none(), "{token:?} was answered twice");
    }

    fn transmit(&mut self, _: LinkId, _: std::net::SocketAddr, _: Vec<u8>, _: usize, _: usize) {}

    fn persist(&mut self, key: &str, value: &[u8], token: MetaToken) {
        self.did.push(Did::Persist(key.to_string()));
        self.asked.insert(key.to_string(), value.to_vec());
        self.unkept.push_back((key.to_string(), value.to_vec(), token));
    }

    fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.asked.get(key).cloned()
    }

    fn answer_operator(&mut self, ticket: Ticket, answer: Result<OperatorAnswer, OperatorError>) {
        let before = self.operators.insert(ticket.0, answer);
        assert!(before.is_none(), "{ticket:?} was answered twice");
    }

    fn volume_changed(&mut self, pair: PairId) {
        self.changed.push(pair);
    }

    fn log(&mut self, _: std::fmt::Arguments<'_>) {}
}

impl Uplink for World {
    fn stream_start(&mut self, _: LinkId, stream: StreamId, epoch: Epoch, _: Generation, durable: Seq) {
        self.did.push(Did::Start(stream, epoch, durable));
        self.records.entry(stream).or_default().retain(|record| record.head.stamp.seq > durable);
    }

    fn stream_replay(&mut self, link: LinkId, stream: StreamId, epoch: Epoch, generation: Generation, durable: Seq) {
        self.stream_start(link, stream, epoch, generation, durable);
    }

    fn stream_kept(&self, _: LinkId, stream: StreamId, each: &mut dyn FnMut(&Record<Bytes>)) {
        self.records.get(&stream).into_iter().flatten().for_each(each);
    }

    fn stream_push(&mut self, _: LinkId, _: Epoch, record: Record<Bytes>) {
        self.did.push(Did::Push(record.head));
        self.history.push(record.clone());
        self.records.entry(record.head.stamp.stream).or_default().push(record);
    }

    fn stream_drop(&mut self, _: LinkId, stream: StreamId) {
        self.did.push(Did::Drop(stream));
        self.records.remove(&stream);
    }

    fn stream_backlog(&self, _: LinkId, stream: StreamId) -> Backlog {
        let records = self.records.get(&stream).map_or(&[][..], |records| &records[..]);
        Backlog {
            records: records.len() as u64,
            bytes: records.iter().map(|record| record.head.charge_bytes()).sum(),
            oldest: records.first().map(|record| record.head.stamp.time),
        }
    }

    fn send_beacon(&mut self, _: LinkId, beacon: Beacon) {
        self.did.push(Did::Beacon(beacon));
    }

    fn send_message(&mut self, _: LinkId, message: Message) {
        self.did.push(Did::Say(message));
    }

    fn session_is_up(&self, _: LinkId) -> bool {
        self.up
    }
}

/// A primary in its world, with hands to move it.
pub struct Rig {
    pub world: World,
    pub primary: Primary<World>,
    pub now: Now,
    /// How much of `world.did` the secondary has read.
    pub heard: usize,
    pub next_token: u64,
}

/// Volumes there are.
const VOLUMES: u32 = 40;

impl Rig {
    pub fn new() -> Rig {
        let now = Now { time: Time(1000 * SECOND), mono: Mono(0), lease: Time(5000 * SECOND), error_bound_ns: 100 };
        let mut world = World { up: true, ..World::default() };
        for volume in 0..VOLUMES {
            world.disks.insert(VolumeId(volume), vec![0; 64 * BLOCK as usize]);
        }
        Rig { world, primary: Primary::new(Rig::config()), now, heard: 0, next_token: 0 }
    }

    /// The process dies and starts again: only what was durable is left. `time` goes on a second later.
    pub fn crash(mut self) -> Rig {
        self.world.asked = self.world.durable.clone();
        self.world.unkept.clear();
        self.world.pending.clear();
        self.world.records.clear();
        self.world.hosts.clear();
        self.world.operators.clear();
        self.world.did.clear();
        self.now.time = self.now.time.after_ns(SECOND);
        self.now.mono = Mono(0);
        Rig { primary: Primary::new(Rig::config()), heard: 0, next_token: 0, ..self }
    }

    /// Marks stay for ever and no resync begins by itself, so that tests of other things need not think of them.
    fn config() -> PrimaryConfig {
        PrimaryConfig {
            mark_ahead_bytes: 0,
            clear_after_ns: u64::MAX,
            resync_pause_ns: u64::MAX,
            ..PrimaryConfig::new(HERE)
        }
    }

    pub fn group_config(name: &str, scope: Scope) -> GroupConfig {
        GroupConfig {
            name: name.to_string(),
            scope,
            link: LINK,
            remote: THERE,
            throttle_ms_max: 100,
            buffer_bytes: 1 << 20,
            overflow: Overflow::Throttle,
            spill: None,
            copy_bytes_per_s: None,
        }
    }

    pub fn group(&mut self, name: &str, scope: Scope) -> GroupId {
        self.primary.group_create(self.now, Rig::group_config(name, scope), &mut self.world).unwrap()
    }

    pub fn pair_config(group: GroupId, name: &str, volume: u32) -> PairConfig {
        PairConfig {
            group,
            name: name.to_string(),
            volume: VolumeId(volume),
            geometry: Geometry { blocks: 64, block_bytes: BLOCK },
            remote_volume: String::new(),
            initial: Initial::Identical,
            volatile: false,
        }
    }

    /// Asks for a pair; the ticket is the volume's number.
    pub fn pair(&mut self, group: GroupId, name: &str, volume: u32) -> PairId {
        let config = Rig::pair_config(group, name, volume);
        self.primary.pair_create(self.now, config, Ticket(u64::from(volume)), &mut self.world).unwrap()
    }

    /// A group with pairs on volumes 0.., all in PAIR state.
    pub fn copying(scope: Scope, pairs: u32) -> (Rig, GroupId, Vec<PairId>) {
        let mut rig = Rig::new();
        let group = rig.group("g", scope);
        let pairs: Vec<PairId> = (0..pairs).map(|volume| rig.pair(group, &format!("p{volume}"), volume)).collect();
        rig.run();
        for pair in &pairs {
            assert_eq!(rig.state(*pair), PairState::Pair);
            rig.mark(*pair);
        }
        (rig, group, pairs)
    }

    /// All regions of the pair are marked, durably, as after earlier writes that are long done.
    pub fn mark(&mut self, id: PairId) {
        let now = self.now.mono;
        let map = &mut self.primary.pairs.get_mut(&id).unwrap().dirty;
        let whole = Extent { lba: 0, blocks: 64 };
        let _ = map.begin(now, whole);
        map.end(now, whole);
        self.primary.keep_marks_of(id, &mut self.world);
        self.keep_all();
    }

    pub fn turn(&mut self) {
        self.primary.turn(self.now, &mut self.world);
    }

    pub fn pass(&mut self, ns: u64) {
        self.now.time = self.now.time.after_ns(ns);
        self.now.mono = self.now.mono.after_ns(ns);
        self.turn();
    }

    /// The oldest local I/O ends. `false` if there is none.
    pub fn local(&mut self) -> bool {
        let Some((volume, io, token)) = self.world.pending.pop_front() else { return false };
        let disk = self.world.disks.get_mut(&volume).unwrap();
        let range =
            |extent: Extent| (extent.lba * u64::from(BLOCK)) as usize..(extent.end() * u64::from(BLOCK)) as usize;
        let error = Err(DeviceError { errno: 5 });
        let writes_fail = self.world.failing_writes.contains(&volume);
        let (result, buf) = match io {
            LocalIo::Read { extent, mut buf } => {
                let fails = self.world.failing_reads.contains(&volume);
                buf.copy_from_slice(&disk[range(extent)]);
                (if fails { error } else { Ok(()) }, Some(buf))
            }
            LocalIo::Flush if self.world.failing_flushes.contains(&volume) => (error, None),
            LocalIo::Flush => (Ok(()), None),
            // Half done.
            LocalIo::Write { extent, data, .. } if writes_fail => {
                let half = data.len() / 2;
                disk[range(extent)][..half].copy_from_slice(&data[..half]);
                (error, None)
            }
            _ if writes_fail => (error, None),
            LocalIo::Write { extent, data, .. } => {
                disk[range(extent)].copy_from_slice(&data);
                (Ok(()), None)
            }
            LocalIo::WriteZeroes { extent, .. } | LocalIo::Unmap { extent } => {
                disk[range(extent)].fill(0);
                (Ok(()), None)
            }
        };
        self.primary.local_done(self.now, token, result, buf, &mut self.world);
        true
    }

    /// The oldest metadata write becomes durable. `false` if there is none.
    pub fn keep(&mut self) -> bool {
        let Some((key, value, token)) = self.world.unkept.pop_front() else { return false };
        self.world.did.push(Did::Durable(key.clone()));
        self.world.durable.insert(key, value);
        self.primary.persisted(self.now, token, &mut self.world);
        true
    }

    pub fn keep_all(&mut self) {
        while self.keep() {}
    }

    pub fn locals(&mut self) {
        while self.local() {}
    }

    /// A willing secondary answers what it has not answered yet. `false` if there was nothing.
    pub fn secondary(&mut self) -> bool {
        let news: Vec<Did> = self.world.did[self.heard..].to_vec();
        self.heard = self.world.did.len();
        let mut answered = false;
        for did in news {
            let answer = match did {
                Did::Say(Message::OpenStream(open)) => Rig::opened(&open),
                Did::Say(Message::JoinPair(join)) => Message::PairJoined { group: join.group, pair: join.pair },
                _ => continue,
            };
            answered = true;
            self.hear(answer);
        }
        answered
    }

    pub fn opened(open: &OpenStream) -> Message {
        Message::StreamOpened(StreamOpened {
            group: open.group,
            generation: FIRST_GENERATION,
            stream: open.stream,
            epoch: open.epoch,
            durable: open.acknowledged,
            base_time: open.base_time,
            held: Time(0),
        })
    }

    pub fn hear(&mut self, message: Message) {
        self.primary.message(self.now, LINK, message, &mut self.world);
    }

    /// Devices, metadata and the secondary answer until nothing happens any more; time stands still.
    pub fn run(&mut self) {
        loop {
            self.turn();
            let (local, kept, answered) = (self.local(), self.keep(), self.secondary());
            if !(local || kept || answered) {
                return;
            }
        }
    }

    pub fn io(&mut self, pair: PairId, io: HostIo<Vec<u8>, Bytes>) -> u64 {
        self.next_token += 1;
        self.primary.host_io(self.now, pair, io, HostToken(self.next_token), &mut self.world);
        self.next_token
    }

    pub fn write(&mut self, pair: PairId, lba: u64, blocks: u32, byte: u8) -> u64 {
        let data = Rc::from(vec![byte; (blocks * BLOCK) as usize]);
        self.io(pair, HostIo::Write { extent: Extent { lba, blocks }, data, fua: false })
    }

    pub fn read(&mut self, pair: PairId, lba: u64, blocks: u32) -> u64 {
        let buf = vec![0xaa; (blocks * BLOCK) as usize];
        self.io(pair, HostIo::Read { extent: Extent { lba, blocks }, buf })
    }

    pub fn outcome(&self, token: u64) -> Option<Result<(), HostError>> {
        self.world.hosts.get(&token).map(|(outcome, _)| *outcome)
    }

    pub fn pushed(&self) -> Vec<RecordHead> {
        let pushes = self.world.did.iter().filter_map(|did| match did {
            Did::Push(head) => Some(*head),
            _ => None,
        });
        pushes.collect()
    }

    pub fn beacons(&self) -> Vec<Beacon> {
        let beacons = self.world.did.iter().filter_map(|did| match did {
            Did::Beacon(beacon) => Some(*beacon),
            _ => None,
        });
        beacons.collect()
    }

    pub fn said(&self) -> Vec<Message> {
        let said = self.world.did.iter().filter_map(|did| match did {
            Did::Say(message) => Some(message.clone()),
            _ => None,
        });
        said.collect()
    }

    /// The secondary has everything of the stream up to `seq`.
    pub fn durable(&mut self, stream: StreamId, seq: u64) {
        let epoch = self.standing(stream).epoch;
        if let Some(records) = self.world.records.get_mut(&stream) {
            records.retain(|record| record.head.stamp.seq.0 > seq);
        }
        self.primary.durable(self.now, LINK, stream, epoch, Seq(seq), &mut self.world);
    }

    pub fn standing(&self, stream: StreamId) -> StreamStanding {
        let groups = self.primary.groups().into_iter().map(|group| self.show(group));
        let mut streams = groups.flat_map(|group| group.streams);
        streams.find(|standing| standing.stream == stream).unwrap()
    }

    pub fn show(&self, group: GroupId) -> GroupStatus {
        self.primary.group_status(self.now, group, &self.world).unwrap()
    }

    pub fn show_pair(&self, pair: PairId) -> PairStatus {
        self.primary.pair_status(self.now, pair).unwrap()
    }

    /// What a refusal of the stream's opening, as it is now, is about.
    pub fn opening(&self, stream: StreamId) -> Subject {
        Subject::Stream(stream, self.primary.streams.get(&stream).map(|stream| stream.epoch).unwrap_or_default())
    }

    pub fn state(&self, pair: PairId) -> PairState {
        self.show_pair(pair).state
    }

    pub fn position(&self, of: impl Fn(&Did) -> bool) -> Option<usize> {
        self.world.did.iter().position(of)
    }

    pub fn answered(&self, ticket: u64) -> &Result<OperatorAnswer, OperatorError> {
        self.world.operators.get(&ticket).expect("the operator waits for an answer")
    }
}
