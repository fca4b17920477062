//! A test view: a group's volumes at one point of its history, writable, while replication goes on.
//!
//! ```text
//! start ─> a gate behind what the volumes hold ─> the journal behind it, up to the cut, into the store ─> hosts
//! a round at the gate ─> old content of all it changes, once per block ─> store ─> the round's writes
//! a host reads ─> its volume, then over it whatever the store has
//! a host writes ─> the store alone
//! ```
//!
//! The volumes are never held back at the cut, which would fill the journal within minutes under load: apply goes on, and
//! what it overwrites is saved first. A view costs room for what *changes*, once, and lives as long as its store has room.
//! The price: the first change of a granule after the start costs a read of it and a write to the store more.
//!
//! **Why the picture is whole.** The blocks that records behind the volumes' position changed, up to the cut, are in the
//! store before a host is served; no record later than the cut can be on a volume yet ([`Group::point_of`]). From then on a
//! block of a volume changes only after the store has it, so a read of the volume that ends while the store does *not* have
//! the block saw it unchanged. That is why the store is looked at behind the read.
//!
//! **What ends it.** Nothing of it is durable: a restart ends a test. The store full, a device of it or a volume failing, a
//! takeover: the view *fails*, its hosts get errors until `group_test_stop`, and the apply goes on at once. A host's write
//! that finds no room fails alone.

mod host;
mod load;
mod store;
mod tasks;

use super::group::{Group, Phase};
use super::io::{Io, Op};
use super::meta::Life;
use super::{Downlink, Secondary};
use crate::apply::Gate;
use crate::engine::OperatorError;
use crate::journal::format::Expect;
use crate::journal::walk::Walk;
use crate::keys::next_key;
use crate::ports::{DeviceError, HostError, HostIo, HostToken, LocalToken, OperatorAnswer, Ticket};
use crate::takeover::TakeoverAt;
use crate::types::{Geometry, GroupId, Mono, Now, PairId, Time, VolumeId};
use host::{Fetch, HostRead, HostWrite, Zeroes};
use load::Load;
use std::collections::{BTreeMap, VecDeque};
use store::{Granule, Store};
use tasks::Task;

/// What a store needs at least, in bytes.
pub const STORE_BYTES_MIN: u64 = 16 * store::GRANULE_BYTES;
/// I/Os of one kind under way at most.
const DEPTH: usize = 32;
/// After memory was short.
const RETRY_NS: u64 = 1_000_000;

/// What a view's own I/O is for; the numbers are the view's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViewOp {
    /// The journal is being read for what the volumes lack.
    Load,
    /// Old content is being read from its volume.
    SaveRead(u64),
    /// And written to the store.
    SaveWrite(u64),
    /// A piece of a host's write, or of the journal, is being written to the store.
    Put(u64),
    /// A volume is being read for a host.
    Read(u64),
    /// The store is being read over it.
    Fetch(u64),
}

/// What a test view is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestConfig {
    /// The device for what changes, held exclusively; what it holds is lost. Its size is the view's limit.
    pub store: VolumeId,
    /// Its size; blocks no larger than those of the volumes.
    pub store_geometry: Geometry,
    /// The point of history that the view shows.
    pub at: TakeoverAt,
}

/// How far a test view is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TestPhase {
    /// What the volumes lack up to the cut is being read from the journal.
    Loading,
    /// Hosts are served.
    Ready,
    /// It is no picture any more; hosts get errors.
    Failed,
}

/// What the operator sees of a test view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestStatus {
    /// How far it is.
    pub phase: TestPhase,
    /// Why it failed.
    pub reason: Option<String>,
    /// The point of history that it shows.
    pub cut: Time,
    /// How old that is, counted as the recovery point's age is.
    pub cut_age_ns: u64,
    /// Room for what changes, in bytes.
    pub store_bytes: u64,
    /// Of these, used.
    pub store_used_bytes: u64,
}

enum Stage {
    Loading,
    Ready,
    Failed(String),
}

/// A group's test view.
pub(super) struct View<B, S> {
    stage: Stage,
    cut: Time,
    volumes: BTreeMap<PairId, (VolumeId, Geometry)>,
    store: Store,
    /// The group's, when the view began.
    rewinds: u64,
    load: Option<Load>,
    /// What changes the store, in order for each granule.
    tasks: BTreeMap<u64, Task<S>>,
    queues: BTreeMap<Granule, VecDeque<u64>>,
    ready: VecDeque<u64>,
    /// Tasks at a device.
    running: usize,
    /// Granules that the round at the gate still needs; `None`: not looked at yet.
    saving: Option<usize>,
    writes: BTreeMap<u64, HostWrite>,
    zeroes: VecDeque<Zeroes>,
    reads: BTreeMap<u64, HostRead<B>>,
    fetches: VecDeque<Fetch>,
    fetching: BTreeMap<u64, Fetch>,
    last_id: u64,
    /// I/Os at devices.
    in_flight: usize,
    /// It has to fail, and why.
    failing: Option<String>,
    starting: Option<Ticket>,
    is_ending: bool,
    answers: Vec<(Ticket, Result<OperatorAnswer, OperatorError>)>,
    retry_at: Option<Mono>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> View<B, S> {
    fn number(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn is_failed(&self) -> bool {
        matches!(self.stage, Stage::Failed(_))
    }

    /// Notes that it has to fail; the first reason counts.
    fn give_up(&mut self, reason: impl Into<String>) {
        if !self.is_failed() {
            self.failing.get_or_insert_with(|| reason.into());
        }
    }

    /// Looks whether the group's volumes are still what the view needs them to be.
    fn check(&mut self, group: Option<&Group<S>>) {
        let ready = group.and_then(|group| match &group.phase {
            Phase::Ready(ready) if group.takeover.is_none() => Some(ready),
            _ => None,
        });
        match ready {
            None => self.give_up("the group does not follow its primary any more"),
            Some(ready) if ready.applier.rewinds() != self.rewinds => {
                self.give_up("a secondary volume could not be flushed, so it may have lost what the view shows");
            }
            Some(_) => {}
        }
    }

    /// Does what can be done now.
    fn drive<P: Downlink<Buf = B, Shared = S>>(&mut self, mut group: Option<&mut Group<S>>, io: &mut Io<'_, P>) {
        self.retry_at = None;
        self.load_on(group.as_deref_mut(), io);
        self.save_on(group.as_deref_mut());
        self.zero_on(io);
        self.run_tasks(io);
        self.fetch_on(io);
        // What a task without I/O ended may have been the last that something waited for.
        self.load_on(group.as_deref_mut(), io);
        self.save_on(group.as_deref_mut());
        if let Some(reason) = self.failing.take() {
            self.fail(reason, group, io);
        }
    }

    /// The view is no picture any more: the apply goes on, hosts get errors.
    fn fail<P: Downlink<Buf = B, Shared = S>>(
        &mut self,
        reason: String,
        group: Option<&mut Group<S>>,
        io: &mut Io<'_, P>,
    ) {
        if let Some(group) = group {
            if !self.is_ending {
                io.ports.log(format_args!("group \"{}\": the test view fails: {reason}", group.meta.name));
            }
            group.let_go_of_view();
        }
        if let Some(ticket) = self.starting.take() {
            let text = format!("the test cannot start: {reason}");
            self.answers.push((ticket, Err(OperatorError::WrongState(text))));
            self.is_ending = true;
        }
        self.stage = Stage::Failed(reason);
        self.tasks.clear();
        self.queues.clear();
        self.ready.clear();
        self.fetches.clear();
        self.zeroes.clear();
        self.saving = None;
        for write in std::mem::take(&mut self.writes).into_values() {
            io.ports.complete_host(write.token, Err(HostError::Device), None);
        }
        // Those at their volume are answered when that gives the buffer back.
        let held: Vec<u64> = self.reads.iter().filter(|(_, read)| read.buf.is_some()).map(|(id, _)| *id).collect();
        for read in held.iter().filter_map(|id| self.reads.remove(id)) {
            io.ports.complete_host(read.token, Err(HostError::Device), read.buf);
        }
    }

    /// Whether nothing of it is at a device, and it is to end.
    fn is_over(&self) -> bool {
        self.is_ending && self.is_failed() && self.in_flight == 0
    }

    /// An I/O ended.
    fn done<P: Downlink<Buf = B, Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        op: ViewOp,
        result: Result<(), DeviceError>,
        buf: Option<B>,
    ) {
        self.in_flight -= 1;
        match op {
            ViewOp::Load => {
                if let Some(load) = &mut self.load {
                    load.walk.done(io.now.mono, result, buf.as_ref().map(AsRef::as_ref));
                }
            }
            ViewOp::Read(read) => self.read_done(io, read, result, buf),
            ViewOp::Fetch(fetch) => self.fetched(io, fetch, result, buf),
            ViewOp::SaveRead(task) => self.save_read(io, task, result, buf),
            ViewOp::SaveWrite(task) => self.save_written(task, result),
            ViewOp::Put(task) => self.put_written(io, task, result),
        }
    }
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// Nothing waits for the view any more.
    fn let_go_of_view(&mut self) {
        self.view_gate = None;
        self.is_view_loading = false;
        if let Phase::Ready(ready) = &mut self.phase {
            ready.applier.set_gate(Gate::View, None);
            ready.applier.open_gate(Gate::View);
        }
    }

    /// Why the group cannot be viewed at this point, if so.
    fn view_obstacle(&self, config: &TestConfig, point: Time) -> Option<String> {
        match (&self.phase, &self.meta.life) {
            (Phase::Failed(reason), _) => return Some(reason.clone()),
            (_, Life::Sealed { .. } | Life::TakenOver) => {
                return Some("it was taken over here: its volumes serve hosts themselves".to_owned());
            }
            (Phase::Ready(_), _) if self.takeover.is_some() => return Some("it is being taken over".to_owned()),
            (Phase::Ready(ready), _) if ready.applier.is_rewinding() => {
                return Some("a secondary volume could not be flushed: try again in a moment".to_owned());
            }
            (Phase::Ready(_), _) => {}
            _ => return Some("its journal is still being opened: try again in a moment".to_owned()),
        }
        if self.meta.generation.number == 0 || self.meta.pairs.is_empty() {
            return Some("no primary ever copied to it: there is nothing to test".to_owned());
        }
        if self.meta.unit.as_ref().is_some_and(|unit| unit.is_overlaid) {
            return Some(
                "a resync has gone to the volumes and its overlay holds the last image: wait until it is complete"
                    .to_owned(),
            );
        }
        if let Some(obstacle) = self.follower_obstacle() {
            return Some(obstacle);
        }
        for pair in self.meta.pairs.iter() {
            let name = &pair.name;
            if !self.volumes.contains_key(&pair.id) {
                return Some(format!(
                    "the volume of pair \"{name}\" is not attached: create the pair again with pair_create"
                ));
            }
            if !pair.is_whole_at(point) {
                return Some(format!(
                    "pair \"{name}\" was not consistent at {point}: wait until its first copy is complete"
                ));
            }
            let block_bytes = config.store_geometry.block_bytes;
            if block_bytes > pair.geometry.block_bytes {
                return Some(format!(
                    "the store has blocks of {block_bytes} bytes, the volume of pair \"{name}\" has blocks of {}: give a \
                     store with blocks no larger",
                    pair.geometry.block_bytes
                ));
            }
        }
        None
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    /// Begins a test: a writable view of all the group's volumes at one point of its history. `ticket` is answered
    /// [`OperatorAnswer::TestStarted`] when hosts may use it ([`Secondary::view_io`]).
    ///
    /// # Errors
    /// `NotFound`; `Exists` while there is one; `Invalid` for a point outside of the window or a store that does not fit;
    /// `WrongState` for a group whose volumes are no cut of its history.
    pub fn group_test_start(
        &mut self,
        now: Now,
        id: GroupId,
        config: TestConfig,
        ticket: Ticket,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<(), OperatorError> {
        let Some(group) = self.groups.get_mut(&id) else {
            return Err(OperatorError::NotFound("there is no such group".to_owned()));
        };
        let name = group.meta.name.clone();
        if self.views.contains_key(&id) {
            return Err(OperatorError::Exists(format!(
                "group \"{name}\" is under test already: end that with group_test_stop first"
            )));
        }
        let geometry = config.store_geometry;
        if !matches!(geometry.block_bytes, 512 | 4096) || geometry.bytes() < STORE_BYTES_MIN {
            return Err(OperatorError::Invalid(format!(
                "the store has {} blocks of {} bytes: it needs blocks of 512 or 4096 bytes and {STORE_BYTES_MIN} bytes at \
                 least",
                geometry.blocks, geometry.block_bytes
            )));
        }
        // A group that is no cut at all says so, rather than that the point is outside of its window.
        let cut = group.point_of(&config.at);
        let point = cut.as_ref().map_or(group.recovery_point, |cut| *cut);
        if let Some(obstacle) = group.view_obstacle(&config, point) {
            return Err(OperatorError::WrongState(format!("group \"{name}\" cannot be tested: {obstacle}")));
        }
        let cut = cut?;
        let ready = match &group.phase {
            Phase::Ready(ready) if ready.applier.latest() <= cut => ready,
            _ => {
                return Err(OperatorError::WrongState(format!(
                    "group \"{name}\" cannot be tested at {cut}: its volumes may be beyond that point; try again in a moment"
                )));
            }
        };
        let from = ready.applier.applied();
        let gate = ready.applier.reached();
        let until = group.hold.map_or(ready.journal.committed_end(), |hold| hold.position);
        let expect = Expect {
            journal_id: group.meta.journal_id,
            position: from.position,
            previous: from.previous,
            epoch_min: 0,
            epoch_max: group.meta.recovery_epoch,
        };
        let walk = Walk::new(group.area, Op::View(ViewOp::Load), expect, until);
        let rewinds = ready.applier.rewinds();
        let volumes = group.meta.pairs.iter().filter_map(|pair| {
            let (volume, _) = group.volumes.get(&pair.id)?;
            Some((pair.id, (*volume, pair.geometry)))
        });
        let view = View {
            stage: Stage::Loading,
            cut,
            volumes: volumes.collect(),
            store: Store::new(config.store, geometry),
            rewinds,
            load: Some(Load::new(walk, until)),
            tasks: BTreeMap::new(),
            queues: BTreeMap::new(),
            ready: VecDeque::new(),
            running: 0,
            saving: None,
            writes: BTreeMap::new(),
            zeroes: VecDeque::new(),
            reads: BTreeMap::new(),
            fetches: VecDeque::new(),
            fetching: BTreeMap::new(),
            last_id: 0,
            in_flight: 0,
            failing: None,
            starting: Some(ticket),
            is_ending: false,
            answers: Vec::new(),
            retry_at: None,
        };
        group.view_gate = Some(gate);
        group.is_view_loading = true;
        group.set_barrier();
        ports.log(format_args!("group \"{name}\": a test begins at {cut}"));
        self.views.insert(id, view);
        self.look_at_view(now, id, ports);
        Ok(())
    }

    /// Ends a test, whatever became of it. Hosts get errors from here on; `ticket` is answered
    /// [`OperatorAnswer::TestStopped`] when the store is free.
    ///
    /// # Errors
    /// `NotFound` for a group that is not under test.
    pub fn group_test_stop(
        &mut self,
        now: Now,
        id: GroupId,
        ticket: Ticket,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<(), OperatorError> {
        let stopped = self.with_view(now, id, ports, |view, _| {
            view.is_ending = true;
            view.answers.push((ticket, Ok(OperatorAnswer::TestStopped)));
            view.give_up("it was stopped");
        });
        stopped.ok_or_else(|| OperatorError::NotFound("the group is not under test".to_owned()))
    }

    /// What `group_get` shows of a group's test.
    pub fn test_status(&self, now: Now, id: GroupId) -> Option<TestStatus> {
        let view = self.views.get(&id)?;
        let (phase, reason) = match &view.stage {
            Stage::Loading => (TestPhase::Loading, None),
            Stage::Ready => (TestPhase::Ready, None),
            Stage::Failed(reason) => (TestPhase::Failed, Some(reason.clone())),
        };
        Some(TestStatus {
            phase,
            reason,
            cut: view.cut,
            cut_age_ns: self.latest_time(now).since_ns(view.cut),
            store_bytes: view.store.bytes(),
            store_used_bytes: view.store.used_bytes(),
        })
    }

    /// A host's request on the test view of a pair's volume. Refused with [`HostError::Device`] when there is none, or it
    /// failed; a write that finds no room in the store changes nothing and ends with [`HostError::NoSpace`] (zeroes: as far
    /// as there was room).
    pub fn view_io(
        &mut self,
        now: Now,
        pair: PairId,
        host: HostIo<B, S>,
        token: HostToken,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let found = self.views.iter().find(|(_, view)| view.volumes.contains_key(&pair)).map(|(id, _)| *id);
        match found {
            Some(id) => _ = self.with_view(now, id, ports, |view, io| view.host(io, pair, host, token)),
            None => host::refuse(ports, host, token),
        }
    }

    /// An I/O of a view ended.
    pub(super) fn view_done(
        &mut self,
        now: Now,
        id: GroupId,
        (op, token): (ViewOp, LocalToken),
        result: Result<(), DeviceError>,
        buf: Option<B>,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        debug_assert!(self.views.contains_key(&id), "a view stays until its last I/O ended: {token:?}");
        self.with_view(now, id, ports, |view, io| view.done(io, op, result, buf));
    }

    /// What the view makes of what has become of its group.
    pub(super) fn look_at_view(&mut self, now: Now, id: GroupId, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        self.with_view(now, id, ports, |_, _| ());
    }

    /// Everything views can go on with.
    pub(super) fn views_on(&mut self, now: Now, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let mut last = None;
        while let Some(id) = next_key(&self.views, last) {
            last = Some(id);
            self.look_at_view(now, id, ports);
        }
    }

    /// When a view has to be looked at.
    pub(super) fn views_due(&self) -> Option<Mono> {
        self.views.values().filter_map(View::due).min()
    }

    /// Lets a view do something, and then what follows from it.
    fn with_view<P: Downlink<Buf = B, Shared = S>, R>(
        &mut self,
        now: Now,
        id: GroupId,
        ports: &mut P,
        what: impl FnOnce(&mut View<B, S>, &mut Io<'_, P>) -> R,
    ) -> Option<R> {
        let view = self.views.get_mut(&id)?;
        let mut group = self.groups.get_mut(&id);
        let mut io = Io { now, ports, tokens: &mut self.tokens, group: id };
        view.check(group.as_deref());
        if let Some(reason) = view.failing.take() {
            view.fail(reason, group.as_deref_mut(), &mut io);
        }
        let answer = what(view, &mut io);
        view.drive(group, &mut io);
        if view.is_over() {
            let answers = std::mem::take(&mut view.answers);
            self.views.remove(&id);
            for (ticket, answer) in answers {
                ports.answer_operator(ticket, answer);
            }
        }
        Some(answer)
    }
}
