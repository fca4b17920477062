//! Nothing is lost: whatever happens, once it stops the group is in PAIR state again and both sites hold the same.

use super::secondary::*;
use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Write {
        pair: usize,
        lba: u64,
        blocks: u32,
    },
    Zeroes {
        pair: usize,
        lba: u64,
        blocks: u32,
    },
    Flush {
        pair: usize,
    },
    Local {
        nth: usize,
    },
    Keep,
    Turn,
    Pass {
        ns: u64,
    },
    Take {
        nth: usize,
        most: usize,
    },
    Answer,
    Link {
        up: bool,
    },
    Stop,
    Suspend,
    Resync {
        full: bool,
    },
    Verify,
    Bookmark,
    Fails {
        writes: bool,
        reads: bool,
    },
    /// The power fails: of what was not flushed, the writes whose number divides are lost.
    Crash {
        lost: u64,
    },
    Shutdown,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..2usize, 0..1000u64, 1..24u32).prop_map(|(pair, lba, blocks)| Step::Write { pair, lba, blocks }),
        1 => (0..2usize, 0..900u64, 1..100u32).prop_map(|(pair, lba, blocks)| Step::Zeroes { pair, lba, blocks }),
        1 => (0..2usize).prop_map(|pair| Step::Flush { pair }),
        10 => (0..8usize).prop_map(|nth| Step::Local { nth }),
        8 => Just(Step::Keep),
        6 => Just(Step::Turn),
        6 => prop_oneof![Just(200), Just(MS), Just(700 * MS), Just(3 * SECOND)].prop_map(|ns| Step::Pass { ns }),
        6 => (0..3usize, 1..6usize).prop_map(|(nth, most)| Step::Take { nth, most }),
        8 => Just(Step::Answer),
        2 => any::<bool>().prop_map(|up| Step::Link { up }),
        2 => Just(Step::Stop),
        1 => Just(Step::Suspend),
        1 => prop_oneof![4 => Just(false), 1 => Just(true)].prop_map(|full| Step::Resync { full }),
        1 => Just(Step::Verify),
        1 => Just(Step::Bookmark),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(writes, reads)| Step::Fails { writes, reads }),
        2 => (1..4u64).prop_map(|lost| Step::Crash { lost }),
        1 => Just(Step::Shutdown),
    ]
}

/// A device that may lose what was not flushed.
#[derive(Default)]
struct Platter {
    flushed: BTreeMap<VolumeId, Vec<u8>>,
}

struct Play {
    rig: Rig,
    site: Site,
    scope: Scope,
    buffer_bytes: u64,
    pairs: Vec<PairId>,
    platter: Platter,
    random: u64,
    /// Tickets of suspensions, the last one's number.
    suspensions: u64,
}

impl Play {
    fn new(scope: Scope, buffer_bytes: u64) -> Play {
        let (rig, site) = (Rig::new(), Site::default());
        let mut play = Play {
            rig,
            site,
            scope,
            buffer_bytes,
            pairs: Vec::new(),
            platter: Platter::default(),
            random: 1,
            suspensions: 90,
        };
        play.begin();
        play.settle();
        play
    }

    fn begin(&mut self) {
        let config = GroupConfig { buffer_bytes: self.buffer_bytes, ..Rig::group_config("g", self.scope) };
        self.pairs = self.rig.large_group(config, 2).1;
    }

    fn group(&self) -> GroupId {
        self.rig.primary.groups()[0]
    }

    /// What is durable at the device after the I/O that is about to end.
    fn local(&mut self) -> bool {
        let flush = match self.rig.world.pending.front() {
            Some((volume, LocalIo::Flush, _)) if !self.rig.world.failing_flushes.contains(volume) => Some(*volume),
            Some(_) => None,
            None => return false,
        };
        if let Some(volume) = flush {
            self.platter.flushed.insert(volume, self.rig.world.disks[&volume].clone());
        }
        self.rig.local()
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.random >> 33
    }

    fn crash(&mut self, lost: u64) {
        // Of the I/O at the device, some was done and some was not.
        while !self.rig.world.pending.is_empty() {
            match self.draw() % 2 {
                0 => _ = self.rig.world.pending.pop_front(),
                _ => {
                    // Done, but nobody heard of it.
                    let (volume, io, _) = self.rig.world.pending.pop_front().unwrap();
                    let disk = self.rig.world.disks.get_mut(&volume).unwrap();
                    match io {
                        LocalIo::Write { extent, data, .. } => disk[bytes_of(extent)].copy_from_slice(&data),
                        LocalIo::WriteZeroes { extent, .. } | LocalIo::Unmap { extent } => {
                            disk[bytes_of(extent)].fill(0)
                        }
                        _ => {}
                    }
                }
            }
        }
        for (volume, disk) in &mut self.rig.world.disks {
            let flushed = self.platter.flushed.entry(*volume).or_insert_with(|| vec![0; disk.len()]);
            for (nth, (block, before)) in disk.chunks_mut(512).zip(flushed.chunks_mut(512)).enumerate() {
                if (nth as u64 + lost).is_multiple_of(3) {
                    block.copy_from_slice(before);
                }
                before.copy_from_slice(block);
            }
        }
        // Metadata that was asked for and not heard of may be durable, in order.
        for _ in 0..self.draw() % 3 {
            let Some((key, value, _)) = self.rig.world.unkept.pop_front() else { break };
            self.rig.world.durable.insert(key, value);
        }
        let rig = std::mem::replace(&mut self.rig, Rig::new());
        self.rig = rig.crash();
        self.rig.world.up = true;
        self.rig.next_token = 0;
        self.rig.world.failing_reads.clear();
        self.rig.world.failing_writes.clear();
        self.site.meets(&self.rig);
        self.begin();
    }

    /// Everybody answers until nothing happens.
    fn settle(&mut self) {
        loop {
            self.rig.turn();
            let (local, kept, answered) = (self.local(), self.rig.keep(), self.site.answer(&mut self.rig));
            let had = self.rig.world.records.values().any(|records| !records.is_empty());
            self.site.take_all(&mut self.rig);
            if !(local || kept || answered || had) {
                return;
            }
        }
    }

    fn step(&mut self, step: Step) {
        let (group, now) = (self.group(), self.rig.now);
        match step {
            Step::Write { pair, lba, blocks } => {
                let number = self.draw().to_le_bytes();
                let data = Rc::from(number.repeat((blocks * BLOCK / 8) as usize));
                let io = HostIo::Write { extent: Extent { lba, blocks }, data, fua: false };
                self.rig.io(self.pairs[pair], io);
            }
            Step::Zeroes { pair, lba, blocks } => {
                let io = HostIo::WriteZeroes { extent: Extent { lba, blocks }, fua: false };
                self.rig.io(self.pairs[pair], io);
            }
            Step::Flush { pair } => _ = self.rig.io(self.pairs[pair], HostIo::Flush),
            Step::Local { nth } => {
                let count = self.rig.world.pending.len().max(1);
                // A flush covers what ended before it: it is not overtaken here.
                if !self.rig.world.pending.iter().any(|(_, io, _)| matches!(io, LocalIo::Flush)) {
                    self.rig.world.pending.rotate_left(nth % count);
                }
                self.local();
            }
            Step::Keep => _ = self.rig.keep(),
            Step::Turn => self.rig.turn(),
            Step::Pass { ns } => self.rig.pass(ns),
            Step::Take { nth, most } => {
                let streams: Vec<StreamId> = self.rig.world.records.keys().copied().collect();
                if let Some(stream) = streams.get(nth % streams.len().max(1)).filter(|_| self.rig.world.up) {
                    self.site.take(&mut self.rig, *stream, most);
                }
            }
            Step::Answer if self.rig.world.up => _ = self.site.answer(&mut self.rig),
            Step::Answer => {}
            Step::Link { up } => {
                self.rig.world.up = up;
                self.site.meets(&self.rig);
                match up {
                    true => self.rig.primary.link_up(now, LINK, &mut self.rig.world),
                    false => self.rig.primary.link_down(now, LINK, &mut self.rig.world),
                }
            }
            Step::Stop => {
                let stream = self.rig.show_pair(self.pairs[0]).stream;
                let (subject, refusal) = (self.rig.opening(stream), crate::message::Refusal::UnsentRecords);
                self.rig.hear(Message::Refused { group, subject, refusal, text: "stopped".to_string() });
            }
            Step::Suspend => {
                self.suspensions += 1;
                let ticket = Ticket(self.suspensions);
                let _ = self.rig.primary.group_suspend(now, group, ticket, &mut self.rig.world);
            }
            Step::Resync { full } => _ = self.rig.primary.group_resync(now, group, full, &mut self.rig.world),
            Step::Verify => _ = self.rig.primary.group_verify(now, group, None, false, &mut self.rig.world),
            Step::Bookmark => _ = self.rig.primary.group_bookmark(now, group, "b", &mut self.rig.world),
            Step::Fails { writes, reads } => {
                let volumes = [VolumeId(0), VolumeId(1)];
                self.rig.world.failing_writes = volumes.into_iter().filter(|_| writes).collect();
                self.rig.world.failing_reads = volumes.into_iter().filter(|_| reads).collect();
            }
            Step::Crash { lost } => self.crash(lost),
            Step::Shutdown => {
                self.rig.world.up = true;
                self.rig.primary.shutdown(now, &mut self.rig.world);
                for _ in 0..3 {
                    self.settle();
                    self.rig.pass(6 * SECOND);
                }
                self.settle();
                assert!(matches!(self.rig.primary.shutdown_state(), Shutdown::Done { .. }));
                self.crash(0);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_both_sites_hold_the_same_once_it_stops(
        scope in prop_oneof![Just(Scope::Pair), Just(Scope::Group), Just(Scope::System)],
        buffer_bytes in prop_oneof![Just(1u64 << 20), Just(100_000)],
        steps in proptest::collection::vec(step(), 0..150),
    ) {
        let mut play = Play::new(scope, buffer_bytes);
        for step in steps {
            play.step(step);
        }
        play.rig.world.up = true;
        play.rig.world.failing_writes.clear();
        play.rig.world.failing_reads.clear();
        play.site.meets(&play.rig);
        play.rig.primary.link_up(play.rig.now, LINK, &mut play.rig.world);
        let group = play.group();
        if play.rig.show(group).state == PairState::SuspendedOperator {
            play.settle();
            play.rig.pass(31 * SECOND);
            play.settle();
            // Unless it was said before.
            let _ = play.rig.primary.group_resync(play.rig.now, group, false, &mut play.rig.world);
        }
        for _ in 0..200 {
            play.settle();
            play.rig.pass(SECOND);
        }
        play.settle();
        let shown = play.rig.show(group);
        prop_assert_eq!(shown.state, PairState::Pair, "{:?} {:?} {:?} {:?}", shown.reason, shown.waiting, shown.copy, shown.unit);
        play.site.assert_equal(&play.rig);
        prop_assert_eq!((shown.missing_bytes, shown.dirty_bytes), (0, 0), "marks stay for ever");
        prop_assert!(play.rig.primary.jobs.is_empty() && play.rig.primary.requests.is_empty());
        prop_assert_eq!(play.rig.primary.reading_bytes, 0);
        prop_assert_eq!(play.rig.world.hosts.len() as u64, play.rig.next_token, "a host waits for ever");
        for budget in play.rig.primary.budgets.values() {
            prop_assert!(budget.is_free(), "room that nobody gives back: {budget:?}");
        }
    }
}
