//! Test views: a group at one point of its history, writable, while replication goes on.
//!
//! For its whole life a view is the image at its time with its own hosts' writes over it, whatever replication does. What
//! its hosts write has content of its own, so that a takeover, which is compared byte by byte, would show it in the copy.

use crate::disk::{Blob, Disk};
use crate::host::content;
use crate::memory::{Buf, Bytes};
use crate::node::Input;
use crate::world::{What, World};
use longrun_copy::engine::OperatorError;
use longrun_copy::ports::{HostError, HostIo, HostToken, OperatorAnswer};
use longrun_copy::secondary::{STORE_BYTES_MIN, TakeoverAt, TestConfig, TestPhase};
use longrun_copy::types::{Extent, Geometry, Time, VolumeId};
use std::collections::BTreeMap;

const SECOND: u64 = 1_000_000_000;

/// Requests to views have numbers from here on.
pub const FIRST: u64 = 1 << 36;

/// Requests in flight at most.
const FLYING_MAX: usize = 4;

/// A group's view.
pub struct View {
    ticket: u64,
    life: u32,
    asked: TakeoverAt,
    /// Since hosts use it.
    ready: Option<Ready>,
    /// Device errors of the secondary before it began.
    errors_before: u64,
    is_stopping: bool,
}

struct Ready {
    cut: Time,
    /// By pair: what each sector holds.
    told: BTreeMap<usize, Vec<Blob>>,
    /// What a sector may hold too, by writes that failed.
    maybe: BTreeMap<(usize, u64), Vec<Blob>>,
}

/// A request to a view.
pub struct Asked {
    group: usize,
    pair: usize,
    extent: Extent,
    what: Wanted,
}

enum Wanted {
    Read,
    Write(Option<Bytes>),
    Flush,
}

/// Where a group's views keep what changes.
fn store_of(group: usize) -> VolumeId {
    VolumeId(6000 + group as u32)
}

impl World {
    /// Devices for views.
    pub fn make_stores(&mut self) {
        let node = self.secondary();
        for group in 0..self.groups.len() {
            let most = 4 * self.plan.volume_blocks * u64::from(self.plan.block_bytes);
            let bytes = self.aside.log_range(STORE_BYTES_MIN, most.max(4 * STORE_BYTES_MIN));
            let geometry = Geometry { blocks: bytes / 512, block_bytes: 512 };
            self.disks.insert((node, store_of(group)), Disk::new(geometry));
        }
    }

    /// Something happens to a view: it begins, is used, or ends.
    pub fn view_turn(&mut self) {
        if !self.are_asides_on && self.views.is_empty() {
            return;
        }
        let next = self.at + self.aside.log_range(5_000, self.plan.fault_every_ns);
        self.later(next, What::View);
        let node = self.secondary();
        if self.nodes[node].engine.is_none() {
            return;
        }
        let group = self.aside.below(self.groups.len());
        let Some(view) = self.views.get(&group) else {
            if self.are_asides_on && self.aside.hits(0.2) {
                self.begin_view(group);
            }
            return;
        };
        if view.is_stopping || view.life != self.nodes[node].life {
            return;
        }
        let is_ready = view.ready.is_some();
        match self.aside.below(if is_ready { 60 } else { 400 }) {
            0 => self.stop_view(group),
            _ if is_ready => self.use_view(group),
            _ => {}
        }
    }

    fn begin_view(&mut self, group: usize) {
        let (node, id) = (self.secondary(), self.groups[group].id);
        // What was asked of the one before it would be asked of this one.
        if self.asked_of_views.values().any(|asked| asked.group == group) {
            return;
        }
        if self.groups[group].has_rotten || self.groups[group].takeover_begun || self.are_deleted {
            return;
        }
        let it = &mut self.nodes[node];
        let now = it.clock.read(self.at);
        let Some(engine) = &mut it.engine else { return };
        let Some(status) = engine.secondary(&mut it.ports).0.group_status(now, id) else { return };
        let at = World::draw_point(&self.groups[group], &status, &mut self.aside);
        let store = store_of(group);
        let store_geometry = self.disks[&(node, store)].geometry();
        let ticket = self.loose_ticket(group);
        let config = TestConfig { store, store_geometry, at: at.clone() };
        let (life, errors_before) = (self.nodes[node].life, self.totals.disk_errors);
        let asked = at.clone();
        // It may be answered at once.
        self.views
            .insert(group, View { ticket: ticket.0, life, asked, ready: None, errors_before, is_stopping: false });
        let answer = self.operate(node, |engine, ports, now| {
            let (roles, mut world) = engine.secondary(ports);
            roles.group_test_start(now, id, config, ticket, &mut world)
        });
        self.say(node, format_args!("operator: group_test_start of group {group} at {at:?}: {answer:?}"));
        if answer.is_err() {
            self.loose.remove(&ticket.0);
            self.views.remove(&group);
        }
    }

    fn stop_view(&mut self, group: usize) {
        let (node, id) = (self.secondary(), self.groups[group].id);
        let ticket = self.loose_ticket(group);
        if let Some(view) = self.views.get_mut(&group) {
            (view.ticket, view.is_stopping) = (ticket.0, true);
        }
        let answer = self.operate(node, |engine, ports, now| {
            let (roles, mut world) = engine.secondary(ports);
            roles.group_test_stop(now, id, ticket, &mut world)
        });
        self.say(node, format_args!("operator: group_test_stop of group {group}: {answer:?}"));
        // One that could not start has ended by itself.
        if answer.is_err() {
            self.loose.remove(&ticket.0);
            self.views.remove(&group);
        }
    }

    /// A request about a view was answered.
    pub fn view_answered(&mut self, group: usize, ticket: u64, answer: &Result<OperatorAnswer, OperatorError>) {
        let Some(view) = self.views.get(&group).filter(|view| view.ticket == ticket) else { return };
        match answer {
            Ok(OperatorAnswer::TestStarted { cut }) => {
                let cut = *cut;
                let info = &self.groups[group];
                match &view.asked {
                    TakeoverAt::Newest => {}
                    TakeoverAt::Time(time) => assert!(cut == *time, "a view at {time} shows {cut}"),
                    TakeoverAt::Bookmark(name) => {
                        assert!(info.bookmarks[name].contains(&cut), "a view at bookmark {name} shows {cut}");
                    }
                }
                let inside = info.unit_spans.iter().find(|(from, to)| *from < cut && cut < *to);
                assert!(inside.is_none(), "promise 6: a view of group {group} is at {cut}, inside of a resync");
                let mut told = BTreeMap::new();
                for pair in (0..self.pairs.len()).filter(|pair| self.pairs[*pair].group == group) {
                    let (id, count) = (self.pairs[pair].id, self.whole_sectors(pair, cut));
                    told.insert(pair, self.groups[group].history.image(id, cut)[..count].to_vec());
                }
                self.totals.views += 1;
                let ready = Ready { cut, told, maybe: BTreeMap::new() };
                self.views.get_mut(&group).expect("looked up above").ready = Some(ready);
            }
            _ => _ = self.views.remove(&group),
        }
    }

    /// The secondary died: nothing of a view is durable.
    pub fn views_died(&mut self) {
        self.views.clear();
        self.asked_of_views.clear();
    }

    fn use_view(&mut self, group: usize) {
        if self.asked_of_views.len() >= FLYING_MAX {
            return;
        }
        let pairs: Vec<usize> = (0..self.pairs.len()).filter(|pair| self.pairs[*pair].group == group).collect();
        let pair = pairs[self.aside.below(pairs.len())];
        let block_bytes = self.pairs[pair].geometry.block_bytes;
        let Some(ready) = self.views[&group].ready.as_ref() else { return };
        let blocks = ready.told[&pair].len() as u64 * 512 / u64::from(block_bytes);
        let (draw, is_long) = (self.aside.below(20), self.aside.hits(0.3));
        let most = if is_long { blocks.min(512) } else { blocks.min(self.plan.write_blocks_max) };
        let count = self.aside.log_range(1, most) as u32;
        let extent = Extent { lba: self.aside.range(0, blocks - u64::from(count)), blocks: count };
        let is_met = |asked: &Asked| asked.pair == pair && asked.extent.overlaps(extent);
        if self.asked_of_views.values().any(is_met) {
            return;
        }
        let token = self.next_of_views;
        self.next_of_views += 1;
        let bytes = count as usize * block_bytes as usize;
        let node = self.secondary();
        let pool = &self.nodes[node].ports.pool;
        self.say(node, format_args!("view {token:#x}: {draw} at {extent:?} of pair {pair}"));
        let (io, what) = match draw {
            0..12 => (HostIo::Read { extent, buf: pool.take(bytes) }, Wanted::Read),
            12..17 => {
                let data = content(token, pair, extent, block_bytes);
                let mut buf = pool.take(bytes);
                buf.as_mut().copy_from_slice(&data);
                (HostIo::Write { extent, data: buf.freeze(bytes), fua: false }, Wanted::Write(Some(Bytes::new(data))))
            }
            17 => (HostIo::WriteZeroes { extent, fua: false }, Wanted::Write(None)),
            18 => (HostIo::Unmap { extent }, Wanted::Write(None)),
            _ => (HostIo::Flush, Wanted::Flush),
        };
        self.asked_of_views.insert(token, Asked { group, pair, extent, what });
        let (id, life) = (self.pairs[pair].id, self.nodes[node].life);
        self.later(self.at, What::Input(node, life, Input::View(id, io, HostToken(token))));
    }

    /// A host of a view hears of its request.
    pub fn view_answers(&mut self, token: HostToken, outcome: Result<(), HostError>, buf: Option<Buf>) {
        let Some(asked) = self.asked_of_views.remove(&token.0) else { return };
        let (group, pair) = (asked.group, asked.pair);
        let node = self.secondary();
        let sectors = self.disks[&(node, self.pairs[pair].secondary_volume)].sectors_of(asked.extent);
        self.note(62, token.0, u64::from(outcome.is_ok()));
        self.say(node, format_args!("view {:#x}: {outcome:?}", token.0));
        let Some(view) = self.views.get(&group) else { return };
        let had_errors = self.totals.disk_errors > view.errors_before;
        if outcome == Err(HostError::Device) {
            let is_told = view.is_stopping || self.is_view_failed(group) || self.groups[group].has_rotten;
            assert!(is_told || had_errors, "a view of group {group} fails its hosts, and nothing else failed");
        }
        let Some(ready) = self.views.get_mut(&group).and_then(|view| view.ready.as_mut()) else { return };
        match (asked.what, outcome) {
            (Wanted::Flush, _) | (Wanted::Read, Err(_)) => {}
            (Wanted::Write(data), outcome) => {
                for (index, sector) in sectors.enumerate() {
                    let blob = Blob::of(data.as_ref(), index);
                    match outcome {
                        Ok(()) => {
                            ready.told.get_mut(&pair).expect("a pair of the view")[sector as usize] = blob;
                            ready.maybe.remove(&(pair, sector));
                        }
                        // The store has no room, and nothing was changed; if it is not its device that has none.
                        Err(HostError::NoSpace) if data.is_some() && !had_errors => {}
                        Err(_) => ready.maybe.entry((pair, sector)).or_default().push(blob),
                    }
                }
                self.totals.view_writes += u64::from(outcome.is_ok());
            }
            (Wanted::Read, Ok(())) => {
                let bytes = Bytes::new(buf.expect("a read gives its buffer back").as_ref().to_vec());
                self.totals.view_reads += 1;
                for (index, sector) in sectors.enumerate() {
                    let is = Blob::of(Some(&bytes), index);
                    let ready = self.views[&group].ready.as_ref().expect("looked up above");
                    let told = &ready.told[&pair][sector as usize];
                    let maybe =
                        ready.maybe.get(&(pair, sector)).is_some_and(|all| all.iter().any(|it| it.is_same(&is)));
                    let is_known = maybe || self.is_sound(pair, sector as usize, &is, told, None);
                    assert!(
                        is_known || self.groups[group].has_rotten,
                        "sector {sector} of pair {pair} is {:x?} in a view at {}, and was {:x?}; {}",
                        &is.bytes()[..8],
                        ready.cut,
                        &told.bytes()[..8],
                        self.groups[group].history.about(self.pairs[pair].id, sector)
                    );
                }
            }
        }
    }

    fn is_view_failed(&mut self, group: usize) -> bool {
        let (node, id) = (self.secondary(), self.groups[group].id);
        let it = &mut self.nodes[node];
        let now = it.clock.read(self.at);
        let Some(engine) = &mut it.engine else { return true };
        let status = engine.secondary(&mut it.ports).0.test_status(now, id);
        status.is_none_or(|status| status.phase == TestPhase::Failed)
    }

    /// At the end: no view stays.
    pub fn end_views(&mut self) {
        for group in self.views.keys().copied().collect::<Vec<_>>() {
            if self.views.get(&group).is_some_and(|view| !view.is_stopping) {
                self.stop_view(group);
            }
        }
        let deadline = self.at + 20 * SECOND;
        self.run_until("all views stopped", deadline, |world| world.views.is_empty());
    }
}
