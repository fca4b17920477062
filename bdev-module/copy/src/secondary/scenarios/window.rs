//! Any point in time: the apply delay, bookmarks, takeovers at an earlier point; and verify records.

use super::*;
use crate::digest;
use crate::message::Message;

const DELAY_NS: u64 = 400;

/// A group whose volumes stay behind.
fn delayed(journal_blocks: u64) -> Rig {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.journal_blocks = journal_blocks;
    rig.apply_delay_ns = DELAY_NS;
    rig.create();
    rig.settle();
    rig.drain();
    rig
}

fn work(rig: &mut Rig, writes: usize) {
    for _ in 0..writes {
        rig.clock += 20;
        rig.write(0);
        rig.drain();
    }
}

#[test]
fn the_volumes_stay_behind_by_the_delay_and_memory_does_not_hold_what_waits() {
    let mut rig = delayed(1 << 12);
    work(&mut rig, 60);
    let status = rig.status("g");
    let window = status.window.unwrap();
    assert_eq!(window.until, status.recovery_point);
    let behind = window.until.since_ns(window.from);
    assert!((DELAY_NS - 40..DELAY_NS + DELAY_NS / 4).contains(&behind), "{behind}");
    let stream = rig.senders[0].stream;
    assert_eq!(rig.secondary.intakes[&stream].account.held(), 0);
    assert!(status.apply_lag_records <= 2 && status.held_bytes > 0, "{status:?}");
    assert_eq!(rig.volume("g", "a"), rig.replay("g", "a", window.from));
    assert_ne!(rig.volume("g", "a"), rig.replay("g", "a", window.until));
}

#[test]
fn there_is_no_point_before_the_first_stream_s_beginning_also_when_nothing_was_applied_yet() {
    for (is_delayed, crash) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
        rig.apply_delay_ns = if is_delayed { DELAY_NS } else { 0 };
        rig.create();
        rig.settle();
        assert!(rig.status("g").window.is_none(), "nothing to go to");
        let base = rig.senders[0].base_time;
        rig.drain();
        if crash {
            rig.crash();
            rig.settle();
        }
        let window = rig.status("g").window.unwrap();
        assert!(window.from >= base && window.until >= window.from, "{base} {window:?}");
        for before in [Time(0), Time(5), Time(base.0 - 1)] {
            let refused = take_over_at(&mut rig, TakeoverAt::Time(before));
            assert!(matches!(refused, Err(OperatorError::Invalid(text)) if text.contains("can go to")));
        }
        assert_eq!(take_over_at(&mut rig, TakeoverAt::Time(window.from)).unwrap().recovery_point, window.from);
    }
}

#[test]
fn a_takeover_goes_to_any_point_of_the_window_and_lists_what_it_throws_away() {
    for crash in 0..3 {
        let mut rig = delayed(1 << 12);
        work(&mut rig, 60);
        if crash == 1 {
            rig.crash();
            rig.settle();
        }
        let window = rig.status("g").window.unwrap();
        assert!(window.until.since_ns(window.from) > DELAY_NS / 2, "crash {crash}: {window:?}");
        let at = Time(window.from.0 + window.until.since_ns(window.from) / 2);
        for outside in [window.from.0 - 1, window.until.0 + 1] {
            let refused = take_over_at(&mut rig, TakeoverAt::Time(Time(outside)));
            assert!(matches!(refused, Err(OperatorError::Invalid(text)) if text.contains("can go to")));
        }
        let certificate = if crash == 2 {
            let (ticket, now) = (rig.ticket(), rig.now());
            let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
            rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Time(at), ticket, &mut rig.world).unwrap();
            while rig.status("g").takeover_step <= Some(TakeoverStep::Seal) {
                rig.complete();
                rig.turn();
            }
            rig.crash();
            rig.settle();
            rig.status("g").certificate.unwrap()
        } else {
            take_over_at(&mut rig, TakeoverAt::Time(at)).unwrap()
        };
        assert_eq!(certificate.recovery_point, at);
        rig.assert_cut();
        let status = rig.status("g");
        let sender = &rig.senders[0];
        let (kept, gone): (Vec<_>, Vec<_>) = sender.history.iter().partition(|(head, _)| head.stamp.time <= at);
        assert!(!gone.is_empty());
        let loss = &certificate.streams[0];
        assert_eq!(loss.last_applied.0, kept.len() as u64);
        assert_eq!(loss.seen_not_applied, [loss.last_applied.0 + 1..=sender.last().0]);
        for (head, _) in gone {
            let is_listed = status.discarded.iter().any(|(pair, extent)| {
                *pair == head.pair && extent.lba <= head.extent.lba && extent.end() >= head.extent.end()
            });
            assert!(is_listed, "{head:?} is marked for failback");
        }
        rig.crash();
        rig.settle();
        rig.assert_cut();
    }
}

#[test]
fn after_a_crash_no_point_is_offered_that_the_volumes_may_have_passed() {
    for seed in 0..30 {
        let mut rig = delayed(1 << 12);
        rig.world.chance = ChaCha8Rng::seed_from_u64(seed);
        work(&mut rig, 20);
        for _ in 0..150 {
            rig.clock += 10;
            rig.step();
        }
        let reached = rig.status("g").window.unwrap().from;
        rig.crash();
        rig.settle();
        let window = rig.status("g").window.unwrap();
        assert!(window.from >= reached, "seed {seed}: {window:?} though {reached} was applied");
        let at = window.from;
        take_over_at(&mut rig, TakeoverAt::Time(at)).unwrap();
        rig.assert_cut();
    }
}

#[test]
fn nothing_later_than_the_durable_reach_is_applied() {
    let mut rig = delayed(1 << 12);
    work(&mut rig, 60);
    rig.world.holds_meta = true;
    for _ in 0..60 {
        rig.clock += 20;
        rig.write(0);
        for _ in 0..20 {
            rig.deliver(0);
            rig.beacon(0);
            rig.complete();
            rig.turn();
        }
    }
    let durable = GroupMeta::decode(&rig.world.meta[&meta::key_of(group())]).unwrap().reach.unwrap();
    let status = rig.status("g");
    assert!(status.recovery_point.since_ns(durable) > 2 * DELAY_NS, "the recovery point went on");
    let reached = status.window.unwrap().from;
    assert!(reached <= durable, "a crash now would offer {durable}, and {reached} is on the volumes");
}

#[test]
fn a_delay_that_is_taken_back_or_given_later_is_honoured_after_a_restart() {
    let mut rig = delayed(1 << 12);
    work(&mut rig, 30);
    rig.apply_delay_ns = 0;
    rig.crash();
    rig.settle();
    rig.drain();
    rig.assert_cut();
    assert_eq!(rig.volume("g", "a"), rig.replay("g", "a", Time(u64::MAX)), "all of it");
    rig.apply_delay_ns = DELAY_NS;
    rig.crash();
    rig.settle();
    rig.drain();
    let window = rig.status("g").window.unwrap();
    assert_eq!(rig.volume("g", "a"), rig.replay("g", "a", window.from));
    work(&mut rig, 40);
    let window = rig.status("g").window.unwrap();
    assert!(window.until.since_ns(window.from) > DELAY_NS / 2);
    take_over(&mut rig);
    rig.assert_cut();
}

#[test]
fn a_journal_too_small_for_the_delay_shortens_it_and_says_so() {
    let mut rig = delayed(120);
    rig.apply_delay_ns = u64::MAX / 4;
    rig.crash();
    rig.settle();
    let (mut said, before) = (false, rig.status("g").window.unwrap().from);
    for _ in 0..40 {
        rig.clock += 20;
        rig.write(0);
        for _ in 0..40 {
            rig.hello();
            rig.deliver(0);
            rig.beacon(0);
            rig.complete();
            rig.turn();
            said |= rig.status("g").reason.is_some_and(|reason| reason.contains("too small for apply_delay_s"));
        }
    }
    assert!(said);
    rig.drain();
    assert!(rig.status("g").window.unwrap().from > before, "the volumes went on all the same");
}

#[test]
fn a_journal_that_the_delay_fills_takes_a_large_record_however_full_it_is() {
    for small in 10..60 {
        let mut rig = delayed(120);
        rig.apply_delay_ns = u64::MAX / 4;
        rig.crash();
        rig.settle();
        for _ in 0..small {
            rig.clock += 20;
            rig.write_at(0, 0, RecordKind::Write, Extent { lba: 0, blocks: 1 });
            rig.drain();
        }
        // More than a quarter of the journal.
        rig.clock += 20;
        rig.write_at(0, 0, RecordKind::Write, Extent { lba: 0, blocks: 32 });
        rig.drain();
        let last = rig.senders[0].history.last().unwrap().0.stamp.time;
        let status = rig.status("g");
        assert!(status.recovery_point >= last, "after {small}: {status:?}");
    }
}

#[test]
fn a_takeover_to_an_earlier_point_does_not_wait_for_a_journal_that_is_full_of_what_lies_behind_it() {
    let mut rig = delayed(120);
    rig.apply_delay_ns = u64::MAX / 4;
    rig.crash();
    rig.settle();
    let mut is_full = false;
    for _ in 0..4000 {
        rig.clock += 20;
        rig.write(0);
        rig.hello();
        rig.deliver(0);
        rig.beacon(0);
        rig.complete();
        rig.turn();
        let status = rig.status("g");
        is_full = status.reason.is_some_and(|reason| reason.contains("full until the next checkpoint"));
        if is_full {
            break;
        }
    }
    assert!(is_full, "the journal is never full");
    let from = rig.status("g").window.unwrap().from;
    let certificate = take_over_at(&mut rig, TakeoverAt::Time(from)).unwrap();
    assert_eq!(certificate.recovery_point, from);
    rig.assert_cut();
}

#[test]
fn a_block_that_becomes_durable_while_a_takeover_reads_the_journal_is_listed_as_thrown_away() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a")]).stream(2, Scope::Group, &[("g", "b")]);
    (rig.journal_blocks, rig.apply_delay_ns) = (1 << 12, u64::MAX / 4);
    rig.create();
    rig.settle();
    rig.drain();
    for sender in [0, 1, 0] {
        rig.clock += 20;
        rig.write(sender);
        rig.drain();
    }
    let last = rig.senders[0].history.last().unwrap().0.stamp.time;
    // The second stream's only record behind the point is in a block that the device refuses at first.
    rig.world.failing = Some((Rig::journal_volume(0), 1));
    rig.clock += 20;
    rig.write(1);
    while rig.world.failing.is_some_and(|(_, left)| left > 0) {
        rig.hello();
        rig.deliver(1);
        (0..2).for_each(|sender| rig.beacon(sender));
        rig.turn();
        rig.complete();
    }
    let (ticket, now) = (rig.ticket(), rig.now());
    let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
    let at = TakeoverAt::Time(Time(last.0 - 1));
    rig.secondary.group_takeover(now, group(), consent, at, ticket, &mut rig.world).unwrap();
    rig.turn();
    assert_eq!(rig.status("g").takeover_step, Some(TakeoverStep::Journal), "what lies behind the point is being read");
    // That read takes longer than the block's retry: all that it brings is what was durable when it was asked for.
    let durable = rig.status("g").recovery_point;
    rig.mono += 2 * crate::journal::RETRY_NS;
    rig.turn();
    while rig.complete_write() {
        rig.turn();
    }
    assert!(rig.status("g").recovery_point > durable, "the block is durable");
    assert_eq!(rig.status("g").takeover_step, Some(TakeoverStep::Journal), "and the read still under way");
    rig.settle();
    let certificate = rig.status("g").certificate.unwrap();
    for (sender, applied) in [(0, 1), (1, 1)] {
        let loss = certificate.streams.iter().find(|loss| loss.stream == rig.senders[sender].stream).unwrap();
        assert_eq!((loss.last_applied.0, &loss.seen_not_applied[..]), (applied, &[2..=2][..]), "stream {sender}");
    }
    rig.assert_cut();
}

#[test]
fn a_bookmark_is_a_point_that_a_takeover_goes_to_also_after_a_crash() {
    for crash in [false, true] {
        let mut rig = delayed(1 << 12);
        work(&mut rig, 40);
        let far = Extent { lba: u64::MAX, blocks: 1 };
        let old = rig.stamp(0, 0, RecordKind::Bookmark, far, b"month end".to_vec());
        work(&mut rig, 4);
        let new = rig.stamp(0, 1, RecordKind::Bookmark, far, b"month end".to_vec());
        work(&mut rig, 4);
        if crash {
            rig.crash();
            rig.settle();
        }
        let known = rig.status("g").bookmarks;
        assert_eq!(known.iter().map(|bookmark| bookmark.stamp).collect::<Vec<_>>(), [old, new]);
        assert!(known.iter().all(|bookmark| bookmark.name == "month end"));
        let unknown = take_over_at(&mut rig, TakeoverAt::Bookmark("year end".to_owned()));
        assert!(matches!(unknown, Err(OperatorError::Invalid(text)) if text.contains("no bookmark")));
        let certificate = take_over_at(&mut rig, TakeoverAt::Bookmark("month end".to_owned())).unwrap();
        assert_eq!(certificate.recovery_point, new.time, "the newest of the name");
        rig.assert_cut();
    }
}

/// Sends a verify record of what the primary volume holds now.
fn verify(rig: &mut Rig, extent: Extent) -> Stamp {
    let whole = rig.replay("g", "a", Time(u64::MAX));
    let bytes = &whole[extent.lba as usize * BLOCK..extent.end() as usize * BLOCK];
    let payload: Vec<u8> = digest::digests(bytes).flatten().collect();
    rig.stamp(0, 0, RecordKind::Verify, extent, payload)
}

fn found(rig: &mut Rig) -> Vec<(Seq, Option<u64>)> {
    let told = std::mem::take(&mut rig.heard);
    let found = told.into_iter().filter_map(|message| match message {
        Message::Verified { seq, differing, .. } => Some((seq, differing)),
        _ => None,
    });
    found.collect()
}

#[test]
fn a_verify_record_compares_what_was_written_before_it_and_nothing_that_came_later() {
    let mut rig = working(0);
    let all = Extent { lba: 0, blocks: VOLUME_BLOCKS as u32 };
    let mut asked = Vec::new();
    // Many in one round: writes to the same blocks before and behind each of them.
    for _ in 0..30 {
        for _ in 0..4 {
            rig.write_at(0, 0, RecordKind::Write, Extent { lba: 4, blocks: 5 });
            asked.push(verify(&mut rig, all).seq);
            rig.write_at(0, 0, RecordKind::Write, Extent { lba: 5, blocks: 3 });
        }
        rig.drain();
    }
    let found = found(&mut rig);
    assert_eq!(found, asked.iter().map(|seq| (*seq, Some(0))).collect::<Vec<_>>());
    assert!(rig.status("g").folded_records > 0);
}

#[test]
fn a_verify_record_finds_a_block_that_differs_and_says_which_piece() {
    let mut rig = working(6);
    rig.world.disks.get_mut(&VolumeId(0)).unwrap().put(30, [0x5a; BLOCK]);
    let seq = verify(&mut rig, Extent { lba: 0, blocks: VOLUME_BLOCKS as u32 }).seq;
    let other = verify(&mut rig, Extent { lba: 31, blocks: 10 }).seq;
    rig.drain();
    assert_eq!(found(&mut rig), [(seq, Some(1)), (other, Some(0))]);
    // Digests that do not fit the extent are no verify record.
    let bad = rig.stamp(0, 0, RecordKind::Verify, Extent { lba: 0, blocks: 4 }, vec![1; 32]);
    let (head, payload) = rig.senders[0].history.pop().unwrap();
    assert_eq!(head.stamp, bad);
    let now = rig.now();
    let fragment = Fragment { epoch: Epoch(1), generation: 1, head, offset: 0, body: &payload };
    assert!(!rig.secondary.frame(now, LinkId(1), fragment, &mut rig.world));
    assert_eq!(rig.status("g").streams[0].drops.malformed, 1);
}

#[test]
fn a_verify_record_that_a_restart_replays_over_newer_data_is_not_answered() {
    let mut rig = Rig::new(8, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
    rig.config.checkpoint_interval_ns = u64::MAX / 2;
    rig.secondary = Secondary::new(rig.config, 1);
    rig.create();
    rig.settle();
    rig.drain();
    rig.write_at(0, 0, RecordKind::Write, Extent { lba: 5, blocks: 3 });
    let seq = verify(&mut rig, Extent { lba: 0, blocks: 16 }).seq;
    rig.drain();
    rig.write_at(0, 0, RecordKind::WriteZeroes, Extent { lba: 6, blocks: 3 });
    rig.drain();
    assert_eq!(found(&mut rig), [(seq, Some(0))]);
    rig.kill();
    // The first write of the replay fails, so that its primary is back before it goes on.
    rig.world.failing = Some((VolumeId(0), 1));
    rig.settle();
    rig.hello();
    rig.settle();
    assert_eq!(rig.world.failing, Some((VolumeId(0), 0)));
    assert!(!rig.secondary.groups[&group()].links.is_empty());
    rig.mono += 2 * crate::journal::RETRY_NS;
    rig.settle();
    rig.drain();
    assert_eq!(found(&mut rig), [], "the volume may hold what came later");
    rig.assert_cut();
}

#[test]
fn no_takeover_goes_to_a_time_inside_of_a_resync() {
    let mut rig = delayed(1 << 12);
    rig.resyncs = true;
    work(&mut rig, 30);
    rig.write(0);
    rig.resync(0);
    for _ in 0..3 {
        rig.hello();
        rig.settle();
    }
    let base = rig.status("g").unit.unwrap().base;
    rig.clock += 60;
    rig.write(0);
    rig.drain();
    let whole = rig.status("g").recovery_point;
    work(&mut rig, 2);
    for crash in [false, true] {
        if crash {
            rig.crash();
            rig.settle();
        }
        let window = rig.status("g").window.unwrap();
        assert!(window.from <= base && whole < window.until, "{window:?}");
        let refused = take_over_at(&mut rig, TakeoverAt::Time(Time(base.0 + 30)));
        assert!(matches!(refused, Err(OperatorError::Invalid(text)) if text.contains("resync")));
    }
    let certificate = take_over_at(&mut rig, TakeoverAt::Time(base)).unwrap();
    assert_eq!(certificate.recovery_point, base);
    rig.assert_cut();
}
