//! Test views: a cut that hosts may write to while replication goes on.

use super::*;
use crate::ports::HostIo;
use crate::secondary::rig::Pending;

const STORE: VolumeId = VolumeId(3000);
const PAIRS: [&str; 2] = ["a", "b"];

fn store(blocks: u64) -> Geometry {
    Geometry { blocks, block_bytes: BLOCK as u32 }
}

/// Asks for a view; it may need time.
fn begin(rig: &mut Rig, at: TakeoverAt, blocks: u64) -> Result<Ticket, OperatorError> {
    let (ticket, now) = (rig.ticket(), rig.now());
    let config = TestConfig { store: STORE, store_geometry: store(blocks), at };
    rig.secondary.group_test_start(now, group(), config, ticket, &mut rig.world).map(|()| ticket)
}

/// Waits for the answer, while the world works.
fn answer(rig: &mut Rig, ticket: Ticket) -> Result<OperatorAnswer, OperatorError> {
    for _ in 0..5000 {
        if let Some(answer) = rig.world.answers.remove(&ticket.0) {
            return answer;
        }
        rig.complete();
        rig.turn();
    }
    panic!("no answer: {:?}", rig.status("g"));
}

fn start(rig: &mut Rig, at: TakeoverAt, blocks: u64) -> Result<Time, OperatorError> {
    let ticket = begin(rig, at, blocks)?;
    match answer(rig, ticket)? {
        OperatorAnswer::TestStarted { cut } => Ok(cut),
        other => panic!("{other:?}"),
    }
}

fn stop(rig: &mut Rig) {
    let (ticket, now) = (rig.ticket(), rig.now());
    rig.secondary.group_test_stop(now, group(), ticket, &mut rig.world).unwrap();
    assert!(matches!(answer(rig, ticket), Ok(OperatorAnswer::TestStopped)));
}

fn test(rig: &Rig) -> TestStatus {
    rig.secondary.test_status(rig.now(), group()).unwrap()
}

fn host(rig: &mut Rig, pair: &str, io: HostIo<Vec<u8>, std::rc::Rc<[u8]>>) -> u64 {
    let token = HostToken(rig.ticket().0);
    let (id, now) = (PairId::of_name(group(), pair), rig.now());
    rig.secondary.view_io(now, id, io, token, &mut rig.world);
    token.0
}

/// The end of a host's request, while the world works: all of it, or only the devices.
fn ended(rig: &mut Rig, token: u64, all: bool) -> (Result<(), HostError>, Option<Vec<u8>>) {
    for _ in 0..20_000 {
        if let Some(answer) = rig.world.hosts.remove(&token) {
            return answer;
        }
        if all {
            rig.step();
        } else {
            rig.complete();
            rig.turn();
        }
    }
    panic!("a host waits for ever: {:?}", test(rig));
}

fn read(rig: &mut Rig, pair: &str, extent: Extent, all: bool) -> Result<Vec<u8>, HostError> {
    let buf = vec![0xee; extent.blocks as usize * BLOCK];
    let token = host(rig, pair, HostIo::Read { extent, buf });
    let (result, buf) = ended(rig, token, all);
    let buf = buf.expect("a read gives its buffer back");
    result.map(|()| buf)
}

fn write(rig: &mut Rig, pair: &str, extent: Extent, byte: u8) -> Result<(), HostError> {
    let data = vec![byte; extent.blocks as usize * BLOCK].into();
    let token = host(rig, pair, HostIo::Write { extent, data, fua: true });
    ended(rig, token, false).0
}

const WHOLE: Extent = Extent { lba: 0, blocks: VOLUME_BLOCKS as u32 };

/// What the view of each pair shows at first.
fn images(rig: &Rig, cut: Time) -> [Vec<u8>; 2] {
    PAIRS.map(|pair| rig.replay("g", pair, cut))
}

fn shown(rig: &mut Rig) -> [Vec<u8>; 2] {
    PAIRS.map(|pair| read(rig, pair, WHOLE, false).unwrap())
}

/// One primary with room in the journal for a window.
fn world(seed: u64, apply_delay_ns: u64) -> Rig {
    let mut rig = Rig::new(seed, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.apply_delay_ns = apply_delay_ns;
    rig.journal_blocks = if apply_delay_ns > 0 { 1 << 12 } else { 128 };
    rig.create();
    rig
}

#[test]
fn a_view_shows_its_cut_and_its_hosts_writes_while_everything_else_goes_on() {
    let (mut saved, mut requests) = (0, 0);
    for seed in 0..60 {
        let mut rig = world(seed, if seed % 3 == 0 { 60 } else { 0 });
        rig.world.alloc_fails = seed % 4 == 1;
        for _ in 0..400 + rig.below(2500) {
            rig.step();
        }
        if seed % 5 == 2 {
            rig.crash();
            rig.settle();
        }
        let Some(window) = rig.status("g").window else { continue };
        // Any point, also between two records of one block of the journal.
        let reach = rig.below(window.until.since_ns(window.from) + 1);
        let at = Time(window.from.0 + reach);
        let ticket = begin(&mut rig, TakeoverAt::Time(at), 1 << 10).unwrap();
        while !rig.world.answers.contains_key(&ticket.0) {
            rig.step();
        }
        assert!(matches!(rig.world.answers[&ticket.0], Ok(OperatorAnswer::TestStarted { cut }) if cut == at));
        let mut model = images(&rig, at);
        for _ in 0..60 {
            for _ in 0..rig.below(40) {
                rig.step();
            }
            let which = rig.below(2) as usize;
            let lba = rig.below(VOLUME_BLOCKS);
            let extent = Extent { lba, blocks: 1 + rig.below((VOLUME_BLOCKS - lba).min(14)) as u32 };
            let range = lba as usize * BLOCK..extent.end() as usize * BLOCK;
            match rig.below(6) {
                0 | 1 => {
                    let byte = rig.below(256) as u8;
                    let data = vec![byte; range.len()].into();
                    let token = host(&mut rig, PAIRS[which], HostIo::Write { extent, data, fua: false });
                    assert_eq!(ended(&mut rig, token, true).0, Ok(()));
                    model[which][range].fill(byte);
                }
                2 => {
                    let token = host(&mut rig, PAIRS[which], HostIo::Unmap { extent });
                    assert_eq!(ended(&mut rig, token, true).0, Ok(()));
                    model[which][range].fill(0);
                }
                _ => assert_eq!(read(&mut rig, PAIRS[which], extent, true).unwrap(), model[which][range], "{seed}"),
            }
            requests += 1;
        }
        rig.drain();
        assert_eq!(shown(&mut rig), model, "seed {seed}");
        saved += test(&rig).store_used_bytes;
        if seed % 3 > 0 {
            assert_ne!(PAIRS.map(|pair| rig.volume("g", pair)), images(&rig, at), "the apply went on");
        }
        stop(&mut rig);
        rig.drain();
        if seed % 3 > 0 {
            rig.assert_cut();
        }
    }
    assert!(requests > 2000 && saved > 100_000, "{requests} requests, {saved} bytes saved");
}

#[test]
fn a_view_of_a_bookmark_in_the_window_shows_what_a_takeover_there_would_give() {
    let mut rig = world(5, 100_000);
    rig.settle();
    rig.drain();
    let far = Extent { lba: u64::MAX, blocks: 1 };
    for _ in 0..20 {
        rig.write(0);
    }
    let mark = rig.stamp(0, 0, RecordKind::Bookmark, far, b"month end".to_vec());
    for _ in 0..20 {
        rig.write(0);
        rig.drain();
    }
    let before = rig.status("g").window.unwrap();
    let at = TakeoverAt::Bookmark("month end".to_owned());
    assert_eq!(start(&mut rig, at.clone(), 1 << 10).unwrap(), mark.time);
    let seen = shown(&mut rig);
    assert_eq!(seen, images(&rig, mark.time));
    assert_eq!(rig.status("g").window.unwrap().from, before.from, "the window is as wide as before");
    stop(&mut rig);
    let (ticket, now) = (rig.ticket(), rig.now());
    let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
    rig.secondary.group_takeover(now, group(), consent, at, ticket, &mut rig.world).unwrap();
    rig.settle();
    assert_eq!(PAIRS.map(|pair| rig.volume("g", pair)), seen);
}

#[test]
fn a_takeover_ends_a_test_and_leaves_the_cut_without_what_the_test_wrote() {
    for seed in 0..20 {
        let mut rig = world(seed, 0);
        for _ in 0..1500 {
            rig.step();
        }
        let Ok(_) = start(&mut rig, TakeoverAt::Newest, 1 << 10) else { continue };
        write(&mut rig, "a", Extent { lba: 0, blocks: 20 }, 0xcc).unwrap();
        for _ in 0..300 {
            rig.step();
        }
        let pending = host(&mut rig, "a", HostIo::Read { extent: WHOLE, buf: vec![0; WHOLE.blocks as usize * BLOCK] });
        take_over(&mut rig);
        let (result, buf) = rig.world.hosts.remove(&pending).expect("answered");
        assert_eq!((result, buf.is_some()), (Err(HostError::Device), true));
        rig.assert_cut();
        let status = test(&rig);
        assert_eq!(status.phase, TestPhase::Failed);
        assert!(status.reason.unwrap().contains("does not follow"));
        assert_eq!(read(&mut rig, "b", WHOLE, false), Err(HostError::Device));
        let again = start(&mut rig, TakeoverAt::Newest, 1 << 10);
        assert!(matches!(again, Err(OperatorError::Exists(_))));
        stop(&mut rig);
        let again = start(&mut rig, TakeoverAt::Newest, 1 << 10);
        assert!(matches!(again, Err(OperatorError::WrongState(text)) if text.contains("was taken over here")));
        assert!(rig.secondary.test_status(rig.now(), group()).is_none());
    }
}

#[test]
fn a_full_store_ends_the_view_and_replication_does_not_notice() {
    let mut rig = world(3, 0);
    rig.settle();
    rig.drain();
    for lba in [0, 10, 20, 30] {
        rig.write_at(0, 0, RecordKind::Write, Extent { lba, blocks: 6 });
        rig.write_at(0, 1, RecordKind::Write, Extent { lba, blocks: 6 });
    }
    rig.drain();
    let least = STORE_BYTES_MIN / BLOCK as u64;
    let cut = start(&mut rig, TakeoverAt::Newest, least).unwrap();
    let image = images(&rig, cut);
    // The volume has twelve granules, the store sixteen places.
    write(&mut rig, "a", WHOLE, 0x11).unwrap();
    assert_eq!(write(&mut rig, "b", WHOLE, 0x22), Err(HostError::NoSpace), "and nothing of it is written");
    assert_eq!(shown(&mut rig), [vec![0x11; image[0].len()], image[1].clone()]);
    write(&mut rig, "b", Extent { lba: 0, blocks: 14 }, 0x33).unwrap();
    assert_eq!(test(&rig).store_used_bytes, STORE_BYTES_MIN);
    // Zeroes need no place.
    let zeroed = Extent { lba: 34, blocks: 14 };
    let token = host(&mut rig, "b", HostIo::WriteZeroes { extent: zeroed, fua: false });
    assert_eq!(ended(&mut rig, token, false).0, Ok(()), "in portions");
    let [_, shown_b] = shown(&mut rig);
    assert!(shown_b[34 * BLOCK..].iter().all(|byte| *byte == 0));
    assert_eq!(shown_b[14 * BLOCK..34 * BLOCK], image[1][14 * BLOCK..34 * BLOCK]);
    assert_eq!(test(&rig).phase, TestPhase::Ready);
    // What the test holds already can go on being overwritten; nothing else can.
    rig.write_at(0, 0, RecordKind::Write, Extent { lba: 3, blocks: 4 });
    rig.drain();
    assert_eq!(test(&rig).phase, TestPhase::Ready);
    let before = rig.status("g").applied_records;
    rig.write_at(0, 1, RecordKind::Write, Extent { lba: 20, blocks: 4 });
    rig.drain();
    let status = test(&rig);
    assert_eq!(status.phase, TestPhase::Failed);
    assert!(status.reason.unwrap().contains("store is full"));
    assert!(rig.status("g").applied_records > before);
    rig.assert_cut();
    assert_eq!(read(&mut rig, "a", WHOLE, false), Err(HostError::Device));
    assert_eq!(write(&mut rig, "a", Extent { lba: 0, blocks: 1 }, 1), Err(HostError::Device));
    stop(&mut rig);
}

#[test]
fn a_resync_goes_on_beside_a_test_in_the_journal_and_in_the_overlay() {
    for overlay in [None, Some(2000)] {
        let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
        rig.resyncs = true;
        rig.overlay_blocks = overlay;
        rig.journal_blocks = if overlay.is_some() { 128 } else { 1 << 12 };
        rig.create();
        rig.settle();
        rig.drain();
        for _ in 0..5 {
            rig.write(0);
            rig.drain();
        }
        let cut = start(&mut rig, TakeoverAt::Newest, 1 << 10).unwrap();
        let image = images(&rig, cut);
        rig.write(0);
        rig.resync(0);
        let mut overlaid = false;
        for _ in 0..40 {
            rig.write(0);
            for _ in 0..8 {
                rig.hello();
                for _ in 0..60 {
                    rig.deliver(0);
                }
                rig.beacon(0);
                rig.settle();
            }
            overlaid |= rig.status("g").unit.is_some_and(|unit| unit.is_overlaid);
            assert_eq!(shown(&mut rig), image);
        }
        assert_eq!(overlaid, overlay.is_some());
        let base = rig.status("g").unit.unwrap().base;
        if overlaid {
            let again = {
                stop(&mut rig);
                start(&mut rig, TakeoverAt::Newest, 1 << 10)
            };
            assert!(
                matches!(again, Err(OperatorError::WrongState(text)) if text.contains("overlay holds the last image"))
            );
            // The overlay kept what the test did not disturb.
            take_over(&mut rig);
            assert_eq!(rig.status("g").recovery_point, base);
            rig.assert_cut();
            continue;
        }
        // A test that begins in a resync shows the image before it.
        stop(&mut rig);
        assert_eq!(start(&mut rig, TakeoverAt::Newest, 1 << 10).unwrap(), base);
        let image = images(&rig, base);
        assert_eq!(shown(&mut rig), image);
        rig.drain();
        assert!(rig.status("g").unit.is_none());
        assert_eq!(shown(&mut rig), image, "the unit is complete, and on the volumes");
        stop(&mut rig);
        rig.drain();
        rig.assert_cut();
    }
}

#[test]
fn a_restart_ends_a_test_and_nothing_of_it_stays() {
    for crash in [false, true] {
        let mut rig = world(9, 0);
        for _ in 0..1500 {
            rig.step();
        }
        start(&mut rig, TakeoverAt::Newest, 1 << 10).unwrap();
        write(&mut rig, "a", Extent { lba: 5, blocks: 30 }, 0xcc).unwrap();
        for _ in 0..400 {
            rig.step();
        }
        if crash {
            rig.crash()
        } else {
            rig.kill()
        }
        rig.settle();
        assert!(rig.secondary.test_status(rig.now(), group()).is_none());
        rig.drain();
        rig.assert_cut();
        let (ticket, now) = (rig.ticket(), rig.now());
        let none = rig.secondary.group_test_stop(now, group(), ticket, &mut rig.world);
        assert!(matches!(none, Err(OperatorError::NotFound(text)) if text.contains("not under test")));
        let cut = start(&mut rig, TakeoverAt::Newest, 1 << 10).unwrap();
        assert_eq!(shown(&mut rig), images(&rig, cut), "the store's old content means nothing");
    }
}

/// A device fails while the copy overwrites what a view shows: the view fails with this reason, and nothing else.
fn fails_while_saving(volume: VolumeId, flushes_only: bool, reason: &str) {
    let mut rig = world(4, 0);
    rig.settle();
    rig.drain();
    // Not zeroes, which would need no place.
    for lba in (0..42).step_by(6) {
        rig.write_at(0, 0, RecordKind::Write, Extent { lba, blocks: 6 });
    }
    rig.drain();
    start(&mut rig, TakeoverAt::Newest, 1 << 10).unwrap();
    rig.world.failing = Some((volume, 1));
    rig.world.failing_flushes_only = flushes_only;
    rig.write_at(0, 0, RecordKind::Write, Extent { lba: 8, blocks: 5 });
    rig.drain();
    rig.mono += 2 * crate::journal::RETRY_NS;
    rig.drain();
    let status = test(&rig);
    assert_eq!(status.phase, TestPhase::Failed, "{reason}");
    assert!(status.reason.as_ref().unwrap().contains(reason), "{status:?}");
    rig.assert_cut();
    stop(&mut rig);
}

#[test]
fn a_store_that_cannot_take_old_content_ends_the_view_and_replication_goes_on() {
    fails_while_saving(STORE, false, "the store cannot be written");
}

#[test]
fn a_secondary_volume_that_cannot_be_flushed_ends_the_view_and_replication_goes_on() {
    fails_while_saving(VolumeId(0), true, "could not be flushed");
}

#[test]
fn a_host_s_write_to_a_store_that_fails_is_that_host_s_error_alone() {
    let mut rig = working(5);
    start(&mut rig, TakeoverAt::Newest, 1 << 10).unwrap();
    rig.world.failing = Some((STORE, 1));
    let before = shown(&mut rig);
    assert_eq!(write(&mut rig, "a", Extent { lba: 0, blocks: 2 }, 1), Err(HostError::Device));
    assert_eq!(shown(&mut rig), before);
    assert_eq!(test(&rig).phase, TestPhase::Ready);
}

#[test]
fn commands_that_do_not_fit_a_test_are_refused_with_a_sentence_and_change_nothing() {
    let wrong = |error: Result<Time, OperatorError>, what: &str| match error {
        Err(OperatorError::WrongState(text) | OperatorError::Invalid(text) | OperatorError::Exists(text)) => {
            assert!(text.contains(what), "{text}");
        }
        other => panic!("{other:?}"),
    };
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.create();
    wrong(start(&mut rig, TakeoverAt::Newest, 1 << 10), "still being opened");
    rig.settle();
    wrong(start(&mut rig, TakeoverAt::Newest, 1 << 10), "nothing to test");
    let mut rig = working(5);
    wrong(start(&mut rig, TakeoverAt::Newest, 3), "the store has 3 blocks");
    wrong(start(&mut rig, TakeoverAt::Bookmark("x".to_owned()), 1 << 10), "no bookmark \"x\"");
    let point = rig.status("g").window.unwrap().until;
    wrong(start(&mut rig, TakeoverAt::Time(Time(point.0 + 1)), 1 << 10), "can go to");
    let (ticket, now) = (rig.ticket(), rig.now());
    let config = TestConfig {
        store: STORE,
        store_geometry: Geometry { blocks: 1 << 10, block_bytes: 4096 },
        at: TakeoverAt::Newest,
    };
    let refused = rig.secondary.group_test_start(now, group(), config, ticket, &mut rig.world);
    wrong(refused.map(|()| Time(0)), "blocks of 4096 bytes");
    assert!(rig.secondary.test_status(rig.now(), group()).is_none());
    let cut = start(&mut rig, TakeoverAt::Newest, 1 << 10).unwrap();
    wrong(start(&mut rig, TakeoverAt::Newest, 1 << 10), "under test already");
    let (ticket, now) = (rig.ticket(), rig.now());
    let a = PairId::of_name(group(), "a");
    let refused = rig.secondary.pair_delete(now, a, ticket, &mut rig.world);
    wrong(refused.map(|()| Time(0)), "under test");
    // Outside of the volume, or for a pair that has no view.
    let out = Extent { lba: VOLUME_BLOCKS - 1, blocks: 2 };
    assert_eq!(read(&mut rig, "a", out, false), Err(HostError::Device));
    assert_eq!(read(&mut rig, "nobody", WHOLE, false), Err(HostError::Device));
    assert_eq!(shown(&mut rig), images(&rig, cut));
    stop(&mut rig);
    assert_eq!(read(&mut rig, "a", WHOLE, false), Err(HostError::Device));
    // A pair whose first copy is under way was never a picture of anything.
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.overwritable.insert("b".to_owned());
    rig.senders[0].copies_all.insert("b".to_owned());
    rig.senders[0].marks.insert((1, 0));
    rig.create();
    rig.settle();
    for _ in 0..20 {
        rig.hello();
        rig.settle();
    }
    rig.write(0);
    wrong(start(&mut rig, TakeoverAt::Newest, 1 << 10), "pair \"b\" was not consistent");
    assert!(rig.secondary.test_status(rig.now(), group()).is_none());
}

#[test]
fn the_journal_that_a_view_still_has_to_read_is_not_freed() {
    let mut rig = world(8, 0);
    rig.settle();
    rig.drain();
    let ready = |rig: &Rig| match &rig.secondary.groups[&group()].phase {
        Phase::Ready(ready) => (ready.applier.applied().position, ready.applier.reached()),
        _ => panic!("not open"),
    };
    // A round is on its way to the volumes: what it brings is behind the volumes' position.
    rig.write_at(0, 0, RecordKind::Write, Extent { lba: 0, blocks: 6 });
    for _ in 0..100 {
        rig.deliver(0);
    }
    rig.beacon(0);
    while ready(&rig).0 == ready(&rig).1 {
        rig.complete();
        rig.turn();
    }
    let ticket = begin(&mut rig, TakeoverAt::Newest, 1 << 10).unwrap();
    let image = images(&rig, test(&rig).cut);
    let from = ready(&rig).0;
    for _ in 0..200 {
        // The store is slow.
        let (held, rest) =
            std::mem::take(&mut rig.world.pending).into_iter().partition(|Pending::Local(volume, ..)| *volume == STORE);
        rig.world.pending = rest;
        rig.complete();
        rig.world.pending.extend::<Vec<_>>(held);
        rig.turn();
    }
    assert_eq!(test(&rig).phase, TestPhase::Loading);
    assert!(ready(&rig).0 > from, "the round is on the volumes");
    assert!(rig.secondary.groups[&group()].meta.checkpoint.position <= from);
    assert!(matches!(answer(&mut rig, ticket), Ok(OperatorAnswer::TestStarted { .. })));
    assert_eq!(shown(&mut rig), image);
    rig.settle();
    assert!(rig.secondary.groups[&group()].meta.checkpoint.position > from, "and then it is");
}

#[test]
fn a_swap_is_refused_while_the_secondary_is_under_test() {
    let mut rig = working(5);
    rig.secondary.set_reversible(group(), true);
    let said = |rig: &mut Rig| {
        let generation = rig.status("g").generation;
        let end = rig.status("g").recovery_point;
        rig.world.messages.clear();
        let ask = Message::HandOver { group: group(), generation, end, last_sum: None };
        let now = rig.now();
        rig.secondary.message(now, LinkId(1), SystemId(1), ask, &mut rig.world);
        rig.secondary.turn(now, &mut rig.world);
        std::mem::take(&mut rig.world.messages).into_iter().find_map(|(_, message)| match message {
            Message::Refused { refusal, text, .. } => Some((refusal, text)),
            _ => None,
        })
    };
    start(&mut rig, TakeoverAt::Newest, 1 << 10).unwrap();
    let (refusal, text) = said(&mut rig).expect("refused");
    assert_eq!(refusal, Refusal::NotYet);
    assert!(text.contains("under test"), "{text}");
    stop(&mut rig);
    assert_eq!(said(&mut rig), None, "it begins");
    assert!(rig.status("g").takeover_step.is_some());
}
