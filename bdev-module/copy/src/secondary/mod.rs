//! The secondary roles of an engine: from frames to volumes.
//!
//! ```text
//! frame ─> RxStream (ring, run, tip) ─> Inlet (one per group) ─> merge up to the limit time ─> Journal ─> Applier ─> volumes
//! ```
//!
//! A [`crate::stream::RxStream`] belongs to a sender and may feed several groups (scope `system`); a record goes to the
//! group of its pair. Each group has its limit, journal, apply and durable value (`secondary/group/<id>` of
//! [`Ports::persist`], written whole at every change, versioned). A shared stream's groups stand under
//! `secondary/stream/<id>`.
//!
//! **When something is full.** Receive memory: grants end, the primary keeps. Journal: nothing is released until the next
//! checkpoint, so memory fills, so grants end. Streams: the next OPEN is refused. The arena: a frame is dropped and comes
//! again; journal, apply and replay try again in the next turn. A test's store: the test fails, nothing else ([`view`]).

mod ask;
mod attest;
pub(crate) mod codec;
mod demote;
mod failover;
mod group;
mod handover;
mod inlets;
mod intake;
mod intakes;
pub(crate) mod io;
mod known;
mod meta;
mod opening;
mod overlay;
mod pairs;
mod peers;
mod promote;
mod receive;
mod recover;
mod report;
mod resize;
mod restore;
mod status;
mod touched;
mod trouble;
mod turn;
mod unit;
mod view;
mod window;

#[cfg(test)]
mod rig;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod tests;

pub use crate::takeover::{TakeoverAt, TakeoverStep};
pub use status::{ApplyWindow, Bookmark, GroupPhase, GroupStatus, PairStatus, StreamView, UnitStatus};
pub use view::{STORE_BYTES_MIN, TestConfig, TestPhase, TestStatus};

use crate::engine::OperatorError;
use crate::message::Message;
use crate::ports::{DeviceError, HostError, HostIo, HostToken, LocalIo, LocalToken, MetaToken, Ports, Ticket};

use crate::types::{
    Epoch, Geometry, GroupId, Initial, LinkId, Mono, Now, PairId, Record, Seq, StreamId, SystemId, Time, VolumeId,
};
pub(crate) use group::cut as block_of;
use group::{Group, Phase};
use intakes::Intakes;
use io::{Op, Tokens};
use meta::GroupMeta;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use view::View;

/// What a secondary tells a stream's sender; one such replaces the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// The stream.
    pub stream: StreamId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The end of the longest run that was received.
    pub run: Seq,
    /// Everything up to this number is durable in every group that it belongs to.
    pub durable: Seq,
    /// How many records above `durable` the sender may have sent.
    pub grant_records: u32,
    /// How many bytes ([`crate::types::RecordHead::charge_bytes`]) above `durable` the sender may have sent. Sent in
    /// order of numbers, so the record that closes a gap always has its room.
    pub grant_bytes: u64,
    /// While a resync is under way in a group that it feeds, whosever: the time of the image that a takeover gives, however
    /// much is durable. Else zero.
    pub held: Time,
}

/// What the secondary roles ask of the links, beside the world's ports.
pub trait Downlink: Ports {
    /// Tells a stream's sender where it stands; sent soon, coalesced, repeated until replaced.
    fn send_status(&mut self, link: LinkId, status: StreamStatus);
    /// Sends a message reliably within the session; dropped if there is none.
    fn send_message(&mut self, link: LinkId, message: Message);
}

/// Sizes of everything that the secondary roles of one engine hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondaryConfig {
    /// Memory for received records of all streams, in bytes as [`crate::types::RecordHead::charge_bytes`] counts. Each of
    /// `streams_max` streams has room for one largest record of it; the rest is shared out evenly.
    pub receive_bytes: u64,
    /// Streams that may be open at once; the next OPEN is refused with a sentence.
    pub streams_max: usize,
    /// Slots of a stream's ring at most; rounded up to a power of two.
    pub stream_records: usize,
    /// How far a stamp may lie beyond this system's timeline, in nanoseconds, beside the clocks' error bound.
    pub stamp_ahead_ns_max: u64,
    /// A group checkpoints after this long, in nanoseconds, if records were applied; sooner when its journal fills.
    pub checkpoint_interval_ns: u64,
    /// The journal's last block is applied when a later one, or the metadata, says that it is durable; the metadata is
    /// written for it when no block came for this long, in nanoseconds.
    pub attest_after_ns: u64,
    /// The recovery point that is reported is durable. While nothing is journaled, the metadata is written for it this
    /// long after the last time, in nanoseconds ...
    pub limit_interval_ns: u64,
    /// ... then after twice as long each time, but not longer than this.
    pub limit_interval_ns_max: u64,
    /// Least size of a journal or overlay, in bytes; [`crate::journal::BYTES_MIN`] but for simulations.
    pub journal_bytes_min: u64,
    /// A journal's block takes as many bytes of records at most, and one record at least; lower for simulations.
    pub journal_block_bytes_max: u64,
}

impl Default for SecondaryConfig {
    fn default() -> Self {
        SecondaryConfig {
            receive_bytes: 192 << 20,
            streams_max: 64,
            stream_records: 8192,
            stamp_ahead_ns_max: 10_000_000_000,
            checkpoint_interval_ns: 1_000_000_000,
            attest_after_ns: 10_000_000,
            limit_interval_ns: 100_000_000,
            limit_interval_ns_max: 500_000_000,
            journal_bytes_min: crate::journal::BYTES_MIN,
            journal_block_bytes_max: crate::journal::BLOCK_BYTES_MAX,
        }
    }
}

/// A group as its operator creates it here; created again alike after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// The name both sites use.
    pub name: String,
    /// The device for its journal, held exclusively.
    pub journal: VolumeId,
    /// The journal's size; at least [`SecondaryConfig::journal_bytes_min`].
    pub journal_geometry: Geometry,
    /// The device for old blocks while a resync is larger than the journal (design 4a), held exclusively; `None`: a
    /// resync that the journal cannot hold waits, and says so.
    pub overlay: Option<(VolumeId, Geometry)>,
    /// The volumes stay this far behind the recovery point, in nanoseconds, so that a takeover may choose a point in
    /// between; 0: as close as they can be.
    pub apply_delay_ns: u64,
}

/// A pair as its operator creates it here; created again alike after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairConfig {
    /// The group's name.
    pub group: String,
    /// The pair's name, unique in its group; both sites use it.
    pub name: String,
    /// The secondary volume, held exclusively.
    pub volume: VolumeId,
    /// Its name here, compared with what the primary's operator named as the remote volume.
    pub volume_name: String,
    /// Its size.
    pub geometry: Geometry,
    /// What the two volumes hold at the start.
    pub initial: Initial,
    /// The volume is in memory: its content ends with the process.
    pub volatile: bool,
}

/// What the operator knows about the old primary when taking over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakeoverConsent {
    /// It cannot serve hosts any more (powered off, cut from its hosts).
    pub old_primary_fenced: bool,
    /// It may, and the operator takes two diverging histories.
    pub accept_split: bool,
}

/// All secondary roles of one engine.
pub struct Secondary<B, S> {
    config: SecondaryConfig,
    chance: ChaCha8Rng,
    tokens: Tokens,
    groups: BTreeMap<GroupId, Group<S>>,
    intakes: Intakes<B, S>,
    pairs: BTreeMap<PairId, GroupId>,
    /// Groups under test.
    views: BTreeMap<GroupId, View<B, S>>,
    /// Who was told already, in this session, that a group has a newer generation.
    fence_told: BTreeSet<(LinkId, GroupId)>,
    /// Records that continued a run in the call under way.
    ready: Vec<Record<S>>,
    /// Primaries that want this system to be the primary, and were not answered yet.
    hand_overs: BTreeMap<GroupId, handover::Asked>,
    /// A group's part may have changed, or a volume been attached.
    role_news: bool,
    /// The stamp or beacon that was furthest ahead of this system's idea of the primaries' clocks, and when it came.
    heard: (Time, Mono),
    /// Kept between calls for its storage only.
    effects: intake::Effects,
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    /// None yet. `seed` is the source of every random identifier; it must be fresh at each start.
    pub fn new(config: SecondaryConfig, seed: u64) -> Self {
        Secondary {
            config,
            chance: ChaCha8Rng::seed_from_u64(seed),
            tokens: Tokens::default(),
            groups: BTreeMap::new(),
            intakes: Intakes::default(),
            pairs: BTreeMap::new(),
            views: BTreeMap::new(),
            fence_told: BTreeSet::new(),
            ready: Vec::new(),
            hand_overs: BTreeMap::new(),
            role_news: false,
            heard: (Time(0), Mono(0)),
            effects: intake::Effects::default(),
        }
    }

    /// The latest time that it may be at a primary, as far as this system can know: by its own timeline, or by the
    /// newest stamp it heard and its own monotonic clock since. A lag counted from this timeline alone would be too small
    /// when it is behind the primary's.
    fn latest_time(&self, now: Now) -> Time {
        let (time, at) = self.heard;
        now.time.max(time.after_ns(now.mono.since_ns(at)))
    }

    fn hear(&mut self, now: Now, time: Time) {
        if time > self.latest_time(now) {
            self.heard = (time, now.mono);
        }
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.chance.next_u64().max(1)
    }

    /// The latest time that a stamp may have now.
    fn ceiling(&self, now: Now) -> Time {
        now.time.after_ns(now.error_bound_ns).after_ns(self.config.stamp_ahead_ns_max)
    }

    /// Creates a group, or opens it again after a restart. Returns at once; the journal is opened (or formatted, if this
    /// system never knew the group) in later turns. A journal that cannot be used shows as [`GroupPhase::Failed`] with a
    /// sentence, and fails the creation of pairs with it.
    ///
    /// # Errors
    /// `Exists` for a group that was created already, `Invalid` for a journal that is too small or of odd blocks, or
    /// metadata that cannot be read.
    pub fn group_create(
        &mut self,
        now: Now,
        config: GroupConfig,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<GroupId, OperatorError> {
        let id = GroupId::of_name(&config.name);
        let name = &config.name;
        if self.groups.contains_key(&id) {
            return Err(OperatorError::Exists(format!("group \"{name}\" exists already")));
        }
        self.check_journal(&config)?;
        let value = ports.recall(&meta::key_of(id)).filter(|value| !value.is_empty());
        let meta = match value {
            None => GroupMeta::new(name, self.random()),
            Some(value) => GroupMeta::decode(&value).map_err(|error| {
                OperatorError::Invalid(format!(
                    "what is stored about group \"{name}\" cannot be read ({error}): restore the metadata file"
                ))
            })?,
        };
        let mut group = Group::new(config, meta, now.mono, self.config);
        group.handed = handover::Handed::recall(id, ports);
        self.groups.insert(id, group);
        self.role_news = true;
        Ok(id)
    }

    /// Takes a group up that was taken over here, and whose journal is missing: its volumes serve hosts without it. To be a
    /// secondary again it needs another one.
    ///
    /// # Errors
    /// `Exists`; `WrongState` unless [`crate::role::was_taken_over`].
    pub fn group_take_up(
        &mut self,
        now: Now,
        name: &str,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<GroupId, OperatorError> {
        if !was_taken_over(GroupId::of_name(name), ports) {
            return Err(OperatorError::WrongState(format!(
                "group \"{name}\" was not taken over here: it needs its journal"
            )));
        }
        // Never read or written: the group's only use for it is over.
        let blocks = self.config.journal_bytes_min.div_ceil(512);
        let config = GroupConfig {
            name: name.to_owned(),
            journal: VolumeId(u32::MAX),
            journal_geometry: Geometry { blocks, block_bytes: 512 },
            overlay: None,
            apply_delay_ns: 0,
        };
        let id = self.group_create(now, config, ports)?;
        if let Some(group) = self.groups.get_mut(&id) {
            assert!(matches!(group.phase, Phase::TakenOver), "only then the journal is of no use");
            group.has_no_journal = true;
        }
        Ok(id)
    }

    /// Whether a journal, and an overlay if there is one, can be made on the devices.
    fn check_journal(&self, config: &GroupConfig) -> Result<(), OperatorError> {
        let name = &config.name;
        let overlay = config.overlay.map(|(_, geometry)| ("overlay", geometry));
        for (log, geometry) in std::iter::once(("journal", config.journal_geometry)).chain(overlay) {
            if !matches!(geometry.block_bytes, 512 | 4096) || geometry.bytes() < self.config.journal_bytes_min {
                return Err(OperatorError::Invalid(format!(
                    "the {log} of group \"{name}\" has {} blocks of {} bytes: it needs blocks of 512 or 4096 bytes and {} \
                     KiB at least",
                    geometry.blocks,
                    geometry.block_bytes,
                    self.config.journal_bytes_min >> 10
                )));
            }
        }
        Ok(())
    }

    /// Forgets a group without pairs; `ticket` is answered when its journal is wiped.
    ///
    /// # Errors
    /// `NotFound`; `WrongState` while it has pairs, or is being opened.
    pub fn group_delete(
        &mut self,
        now: Now,
        group: GroupId,
        ticket: Ticket,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<(), OperatorError> {
        let Some(found) = self.groups.get(&group) else {
            return Err(OperatorError::NotFound("there is no such group".to_owned()));
        };
        let name = &found.meta.name;
        let attached = found.volumes.len() + found.candidates.len();
        if attached > 0 {
            return Err(OperatorError::WrongState(format!(
                "group \"{name}\" has {attached} pairs: delete them with pair_delete first"
            )));
        }
        if !matches!(found.phase, Phase::Ready(_) | Phase::TakenOver | Phase::Failed(_)) || found.takeover.is_some() {
            return Err(OperatorError::WrongState(format!(
                "group \"{name}\" is at work on its journal: try again in a moment"
            )));
        }
        if let Phase::Ready(ready) = &found.phase
            && (ready.journal.is_busy() || found.is_checkpointing() || ready.applier.is_flushing())
        {
            return Err(OperatorError::WrongState(format!(
                "group \"{name}\" is at work on its journal: try again in a moment"
            )));
        }
        self.detach(group);
        self.act(now, group, ports, |group, io, effects| group.wipe(io, ticket, effects));
        Ok(())
    }

    /// Creates a pair, or attaches its volume again after a restart. `ticket` is answered when the volume was found
    /// empty (or was declared identical, or the pair was established before) and that is durable: from then on the
    /// primary may join it.
    ///
    /// # Errors
    /// `NotFound` (group), `Exists`, `Invalid` (the geometry is not what it was), `WrongState` (journal failed).
    pub fn pair_create(
        &mut self,
        now: Now,
        config: PairConfig,
        ticket: Ticket,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<PairId, OperatorError> {
        let group = GroupId::of_name(&config.group);
        if !self.groups.contains_key(&group) {
            return Err(OperatorError::NotFound(format!(
                "there is no group \"{}\": create it with group_create first",
                config.group
            )));
        }
        let answer = self.act(now, group, ports, |group, io, _| Some(group.create_pair(io, config, ticket)));
        let id = answer.unwrap_or_else(|| Err(OperatorError::NotFound("there is no such group".to_owned())))?;
        self.pairs.insert(id, group);
        self.role_news = true;
        Ok(id)
    }

    /// Forgets a pair. `ticket` is answered when that is durable and the volume is free.
    ///
    /// # Errors
    /// `NotFound`; `WrongState` while its primary still sends to it, records still go to the volume, or its group is under
    /// test.
    pub fn pair_delete(
        &mut self,
        now: Now,
        pair: PairId,
        ticket: Ticket,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<(), OperatorError> {
        let Some(group) = self.pairs.get(&pair).copied() else {
            return Err(OperatorError::NotFound("there is no such pair".to_owned()));
        };
        if self.views.contains_key(&group) {
            return Err(OperatorError::WrongState(
                "the pair's group is under test, which shows this volume: end that with group_test_stop first"
                    .to_owned(),
            ));
        }
        let stream = self.groups.get(&group).and_then(|group| group.meta.pair(pair)).and_then(|pair| pair.stream);
        let is_open = stream.and_then(|stream| self.intakes.get(&stream)).is_some_and(|intake| intake.is_open);
        let answer = self.act(now, group, ports, |group, io, _| Some(group.delete_pair(io, pair, is_open, ticket)));
        answer.unwrap_or_else(|| Err(OperatorError::NotFound("there is no such group".to_owned())))?;
        self.pairs.remove(&pair);
        Ok(())
    }

    /// Takes a group over (design 4a, "Takeover in steps"; promise 5): needs no peer. `ticket` is answered with the
    /// certificate when the volumes serve hosts. Asked again afterwards, answers the same certificate, whatever `at`.
    ///
    /// # Errors
    /// `NotFound`; `WrongState` without consent, or for a group that cannot be a cut; `Invalid` for a point outside of the
    /// window ([`GroupStatus::window`]) or a bookmark that is not known.
    pub fn group_takeover(
        &mut self,
        now: Now,
        group: GroupId,
        consent: TakeoverConsent,
        at: TakeoverAt,
        ticket: Ticket,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<(), OperatorError> {
        let Some(found) = self.groups.get(&group) else {
            return Err(OperatorError::NotFound("there is no such group".to_owned()));
        };
        let is_begun = found.takeover_step().is_some();
        if !is_begun && !consent.old_primary_fenced && !consent.accept_split {
            return Err(OperatorError::WrongState(format!(
                "taking group \"{}\" over while its old primary may still serve hosts makes two histories: say \
                 old_primary \"fenced\" when it cannot, or accept_split true to go on all the same",
                found.meta.name
            )));
        }
        let random = self.random();
        let answer = self.act(now, group, ports, |group, io, _| Some(group.take_over(io, ticket, random, consent, at)));
        // A test that nobody ended does not stand in the way of a disaster: it fails.
        self.look_at_view(now, group, ports);
        answer.unwrap_or_else(|| Err(OperatorError::NotFound("there is no such group".to_owned())))
    }

    /// A message came from the system `from`; those that are not for a secondary are ignored.
    pub fn message(
        &mut self,
        now: Now,
        link: LinkId,
        from: SystemId,
        message: Message,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        self.on_message(now, link, from, message, ports);
    }

    /// A session came up on the link. Nothing is sent until the primary opens its streams.
    pub fn link_up(&mut self, now: Now, link: LinkId, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let _ = (now, ports);
        self.fence_told.retain(|(told, _)| *told != link);
    }

    /// The link's session ended. What was received stays; a new session opens the streams again.
    pub fn link_down(&mut self, now: Now, link: LinkId, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let _ = (now, ports);
        self.fence_told.retain(|(told, _)| *told != link);
        for intake in self.intakes.values_mut().filter(|intake| intake.link == link) {
            intake.is_open = false;
        }
        for group in self.groups.values_mut() {
            group.unit_opens.retain(|(asked, ..)| *asked != link);
        }
        // It is asked again in the next one.
        self.hand_overs.retain(|_, asked| asked.link != link);
    }

    /// A local I/O with [`crate::ports::Owner::Secondary`] ended.
    pub fn local_done(
        &mut self,
        now: Now,
        token: LocalToken,
        result: Result<(), DeviceError>,
        buf: Option<B>,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let Some((group, op)) = self.tokens.redeem(token) else { return };
        if let Op::Host(host) = op {
            ports.complete_host(host, result.map_err(HostError::from), buf);
            return;
        }
        if let Op::View(op) = op {
            return self.view_done(now, group, (op, token), result, buf, ports);
        }
        self.act(now, group, ports, |group, io, effects| {
            group.local_done(io, (op, token), result, buf.as_ref().map(AsRef::as_ref), effects);
        });
    }

    /// A metadata write with [`crate::ports::Owner::Secondary`] is durable.
    pub fn persisted(&mut self, now: Now, token: MetaToken, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let Some((group, _)) = self.tokens.redeem(token) else { return };
        self.act(now, group, ports, |group, io, effects| group.persisted(io, token, effects));
    }

    /// A host's request on a pair of this engine. Refused with [`HostError::Secondary`] until takeover, reads too: the
    /// volumes alone are mid-batch, not a cut.
    pub fn host_io(
        &mut self,
        now: Now,
        pair: PairId,
        io: HostIo<B, S>,
        token: HostToken,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let _ = now;
        let group = self.pairs.get(&pair).and_then(|id| self.groups.get(id));
        let is_given_up = group.is_some_and(|group| group.is_given_up);
        let is_ours = group.filter(|group| matches!(group.phase, Phase::TakenOver) && !is_given_up);
        let is_partial = is_ours.and_then(|group| group.meta.certificate.as_ref());
        let is_partial = is_partial.is_some_and(|certificate| certificate.never_consistent.contains(&pair));
        let volume = is_ours.and_then(|group| Some((group.id, group.volumes.get(&pair)?.0)));
        let Some((group, volume)) = volume.filter(|_| !is_partial) else {
            let buf = match io {
                HostIo::Read { buf, .. } => Some(buf),
                _ => None,
            };
            let error = match (is_given_up, is_partial) {
                (true, _) => HostError::Fenced,
                (_, true) => HostError::NeverConsistent,
                _ => HostError::Secondary,
            };
            ports.complete_host(token, Err(error), buf);
            return;
        };
        let io = match io {
            HostIo::Read { extent, buf } => LocalIo::Read { extent, buf },
            HostIo::Write { extent, data, fua } => LocalIo::Write { extent, data, fua },
            HostIo::WriteZeroes { extent, fua } => LocalIo::WriteZeroes { extent, fua },
            HostIo::Unmap { extent } => LocalIo::Unmap { extent },
            HostIo::Flush => LocalIo::Flush,
        };
        let is_write = !matches!(io, LocalIo::Read { .. } | LocalIo::Flush);
        if let Some(group) = self.groups.get_mut(&group).filter(|_| is_write) {
            group.has_unmarked = true;
        }
        let local = self.tokens.issue(group, Op::Host(token));
        ports.local(volume, io, local);
    }

    /// When [`Secondary::turn`] has to be called even if nothing happens.
    pub fn next_timeout(&self) -> Option<Mono> {
        self.groups.values().filter_map(Group::next_timeout).chain(self.views_due()).min()
    }

    /// Whether a stream was opened here (its frames are for this machine).
    pub fn has_stream(&self, stream: StreamId) -> bool {
        self.intakes.contains_key(&stream) || self.groups.values().any(|group| group.meta.stream(stream).is_some())
    }

    /// Whether the pair is one of this machine.
    pub fn has_pair(&self, pair: PairId) -> bool {
        self.pairs.contains_key(&pair)
    }

    /// The groups, in order of their identifiers.
    pub fn groups(&self) -> Vec<GroupId> {
        self.groups.keys().copied().collect()
    }

    /// The greatest stamp or beacon that any group ever saw: the timeline must start above it.
    pub fn greatest_time_seen(&self) -> Time {
        let durable = self.groups.values().map(|group| group.meta.greatest_time.max(group.limit)).max();
        let seen = self.intakes.values().map(|intake| intake.rx.seen()).max();
        durable.max(seen).unwrap_or_default()
    }

    /// Everything up to this number is durable in every group of the stream.
    pub fn stream_durable(&self, stream: StreamId) -> Option<Seq> {
        self.intakes.get(&stream).map(|intake| intake.durable)
    }
}

/// Whether metadata says that the group was taken over here, and that its journal is closed.
pub(crate) fn was_taken_over(group: GroupId, ports: &impl crate::ports::Ports) -> bool {
    let value = ports.recall(&meta::key_of(group)).filter(|value| !value.is_empty());
    value.and_then(|value| GroupMeta::decode(&value).ok()).is_some_and(|meta| meta.life == meta::Life::TakenOver)
}

/// Where a group's value is kept.
pub(crate) fn group_key(group: GroupId) -> String {
    meta::key_of(group)
}

#[doc(hidden)]
pub(crate) fn fuzz_meta(bytes: &[u8]) -> bool {
    GroupMeta::decode(bytes).is_ok_and(|meta| GroupMeta::decode(&meta.encode()) == Ok(meta))
}
