//! Random operation, whatever the scope.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Write { pair: usize, lba: u64, blocks: u32 },
    Zeroes { pair: usize, lba: u64, blocks: u32, unmap: bool },
    Read { pair: usize },
    Local { nth: usize },
    Fails { nth: usize },
    Pass { ns: u64 },
    Lease { ns: u64 },
    Durable { nth: usize },
    Link { up: bool },
    Memory { gone: bool },
    Keep,
    Secondary,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3usize, 0..12u64, 1..5u32).prop_map(|(pair, lba, blocks)| Step::Write { pair, lba, blocks }),
        2 => (0..3usize, 0..12u64, 1..5u32, any::<bool>())
            .prop_map(|(pair, lba, blocks, unmap)| Step::Zeroes { pair, lba, blocks, unmap }),
        2 => (0..3usize).prop_map(|pair| Step::Read { pair }),
        8 => (0..8usize).prop_map(|nth| Step::Local { nth }),
        1 => (0..8usize).prop_map(|nth| Step::Fails { nth }),
        // Nothing, less than the error bound, more than a beacon's interval.
        4 => prop_oneof![Just(0), Just(1), 1..200u64, Just(3 * MS)].prop_map(|ns| Step::Pass { ns }),
        1 => prop_oneof![Just(0), 0..500u64, Just(SECOND)].prop_map(|ns| Step::Lease { ns }),
        3 => (0..3usize).prop_map(|nth| Step::Durable { nth }),
        1 => any::<bool>().prop_map(|up| Step::Link { up }),
        1 => any::<bool>().prop_map(|gone| Step::Memory { gone }),
        1 => Just(Step::Keep),
        2 => Just(Step::Secondary),
    ]
}

/// Checks what the primary did against what it promises.
#[derive(Default)]
struct Judge {
    seen: usize,
    pushed: usize,
    next: BTreeMap<StreamId, u64>,
    promised: BTreeMap<StreamId, Time>,
    newest: Time,
    /// Stamps of writes, by the number that is their data.
    stamps: BTreeMap<u64, Time>,
}

impl Judge {
    fn look(&mut self, rig: &Rig) {
        for did in &rig.world.did[self.seen..] {
            match did {
                Did::Push(head) => self.push(rig, *head),
                Did::Beacon(beacon) => {
                    assert_eq!(beacon.seq, Seq(self.next.get(&beacon.stream).copied().unwrap_or(1) - 1));
                    assert!(beacon.time <= rig.now.lease);
                    let before = self.promised.insert(beacon.stream, beacon.time).unwrap_or_default();
                    assert!(beacon.time >= before);
                }
                Did::Answer(token, _) => {
                    // Whatever the host does next, knowing its write done or having read another's, is stamped later,
                    // on any core.
                    let own = self.stamps.get(&token.0).copied();
                    let data = rig.world.hosts[&token.0].1.as_ref();
                    let read = data.and_then(|data| self.stamps.get(&number(data)).copied());
                    for stamp in [own, read].into_iter().flatten() {
                        assert!(rig.now.time.0 > stamp.0 + rig.now.error_bound_ns, "{token:?} answered too early");
                    }
                }
                _ => {}
            }
        }
        self.seen = rig.world.did.len();
    }

    fn push(&mut self, rig: &Rig, head: RecordHead) {
        let Stamp { time, stream, seq } = head.stamp;
        let expected = self.next.entry(stream).or_insert(1);
        assert_eq!(seq, Seq(*expected), "a gap or a repetition");
        *expected += 1;
        assert!(time > self.newest, "times rise strictly over all streams of a stamper");
        assert!(time > self.promised.get(&stream).copied().unwrap_or_default(), "a beacon's promise is broken");
        assert!(time <= rig.now.lease);
        self.newest = time;
        let record = &rig.world.history[self.pushed];
        self.pushed += 1;
        if let (RecordKind::Write, Some(payload)) = (head.kind, &record.payload) {
            self.stamps.insert(number(payload), time);
        }
    }
}

/// The host request whose data this is.
fn number(data: &[u8]) -> u64 {
    u64::from_le_bytes(data[..8].try_into().unwrap())
}

fn play(scope: Scope, buffer_bytes: u64, steps: &[Step]) -> (Rig, Judge) {
    let mut rig = Rig::new();
    let config = GroupConfig { buffer_bytes, ..Rig::group_config("g", scope) };
    let group = rig.primary.group_create(rig.now, config, &mut rig.world).unwrap();
    let pairs: Vec<PairId> = (0..3).map(|volume| rig.pair(group, &format!("p{volume}"), volume)).collect();
    rig.run();
    let mut judge = Judge::default();
    for step in steps {
        match step {
            Step::Write { pair, lba, blocks } => {
                let number = (rig.next_token + 1).to_le_bytes();
                let data = Rc::from(number.repeat((blocks * BLOCK / 8) as usize));
                rig.io(pairs[*pair], HostIo::Write { extent: Extent { lba: *lba, blocks: *blocks }, data, fua: false });
            }
            Step::Zeroes { pair, lba, blocks, unmap } => {
                let extent = Extent { lba: *lba, blocks: *blocks };
                match unmap {
                    true => rig.io(pairs[*pair], HostIo::Unmap { extent }),
                    false => rig.io(pairs[*pair], HostIo::WriteZeroes { extent, fua: false }),
                };
            }
            Step::Read { pair } => _ = rig.read(pairs[*pair], 0, 1),
            Step::Local { nth } | Step::Fails { nth } => {
                // Devices end I/O in any order.
                let count = rig.world.pending.len().max(1);
                rig.world.pending.rotate_left(nth % count);
                if matches!(step, Step::Fails { .. }) {
                    rig.world.failing_writes.extend((0..8).map(VolumeId));
                }
                rig.local();
                rig.world.failing_writes.clear();
            }
            Step::Pass { ns } => rig.pass(*ns),
            Step::Lease { ns } => {
                rig.now.lease = rig.now.lease.min(Time(2000 * SECOND)).max(rig.now.time.after_ns(*ns));
            }
            Step::Durable { nth } => {
                let streams: Vec<StreamId> = judge.next.keys().copied().collect();
                if let Some(stream) = streams.get(nth % streams.len().max(1)) {
                    let last = rig.standing(*stream).last.0;
                    rig.durable(*stream, last);
                }
            }
            Step::Link { up } => {
                rig.world.up = *up;
                // What was said in the old session is not answered in a new one.
                rig.heard = rig.world.did.len();
                match up {
                    true => rig.primary.link_up(rig.now, LINK, &mut rig.world),
                    false => rig.primary.link_down(rig.now, LINK, &mut rig.world),
                }
            }
            Step::Memory { gone } => rig.world.no_memory = *gone,
            Step::Keep => _ = rig.keep(),
            Step::Secondary => _ = rig.secondary(),
        }
        judge.look(&rig);
    }
    (rig, judge)
}

/// The disks as the records leave them, in stamp order.
fn replay(rig: &Rig) -> BTreeMap<VolumeId, Vec<u8>> {
    let mut disks: BTreeMap<VolumeId, Vec<u8>> =
        rig.world.disks.keys().map(|volume| (*volume, vec![0; 64 * BLOCK as usize])).collect();
    let mut records: Vec<_> = rig.world.history.iter().collect();
    records.sort_by_key(|record| record.head.stamp);
    for Record { head, payload } in records {
        let disk = disks.get_mut(&rig.show_pair(head.pair).volume).unwrap();
        let range = (head.extent.lba * u64::from(BLOCK)) as usize..(head.extent.end() * u64::from(BLOCK)) as usize;
        match payload {
            Some(payload) => disk[range].copy_from_slice(payload),
            None => disk[range].fill(0),
        }
    }
    disks
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn numbers_have_no_gap_times_rise_and_every_host_is_answered(
        scope in prop_oneof![Just(Scope::Pair), Just(Scope::Group), Just(Scope::System)],
        buffer_bytes in prop_oneof![3 => Just(1 << 20), 1 => Just(40_000u64)],
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let (mut rig, mut judge) = play(scope, buffer_bytes, &steps);
        rig.world.up = true;
        rig.world.no_memory = false;
        rig.now.lease = rig.now.time.after_ns(1000 * SECOND);
        rig.heard = rig.world.did.len();
        rig.primary.link_up(rig.now, LINK, &mut rig.world);
        for _ in 0..50 {
            rig.run();
            rig.pass(5 * MS);
            judge.look(&rig);
        }
        prop_assert_eq!(rig.world.hosts.len() as u64, rig.next_token, "a host waits for ever");
        prop_assert!(rig.primary.requests.is_empty() && rig.primary.waits.is_empty());
        prop_assert!(rig.primary.pairs.values().all(|pair| pair.overlap.is_empty() && pair.requests == 0));
        let group = rig.primary.groups()[0];
        if rig.show(group).state.is_copying() {
            prop_assert!(replay(&rig) == rig.world.disks, "the records do not tell what the disks hold");
        } else {
            prop_assert_eq!(buffer_bytes, 40_000);
            prop_assert!(rig.world.records.is_empty());
        }
    }
}
