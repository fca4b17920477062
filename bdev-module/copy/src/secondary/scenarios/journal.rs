//! Devices that fail and journals that are not what they were.

use super::*;

#[test]
fn a_journal_device_that_is_another_s_is_never_written_to() {
    for foreign in ["data", "journal"] {
        let mut rig = Rig::new(1, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
        let mut first = vec![7; 4096];
        if foreign == "journal" {
            let geometry = Geometry { blocks: 136, block_bytes: BLOCK as u32 };
            crate::journal::format::super_bytes(1, GroupId(2), geometry, &mut first);
        }
        let disk = rig.world.disks.entry(Rig::journal_volume(0)).or_default();
        for (lba, block) in first.chunks(BLOCK).enumerate() {
            disk.put(lba as u64, block.try_into().unwrap());
        }
        rig.create();
        rig.settle();
        let status = rig.status("g");
        assert_eq!(status.phase, GroupPhase::Failed);
        assert!(status.reason.as_ref().is_some_and(|reason| reason.contains("zeroes")), "{:?}", status.reason);
        let answer = rig.world.answers.values().next().unwrap();
        assert!(
            matches!(answer, Err(OperatorError::WrongState(_))),
            "its pairs fail with the same sentence: {answer:?}"
        );
        let disk = &rig.world.disks[&Rig::journal_volume(0)];
        assert_eq!(disk.read(Extent { lba: 0, blocks: 8 }), first);
    }
}

#[test]
fn how_small_a_journal_or_an_overlay_may_be_is_the_embedding_s_to_say() {
    let log = |bytes: u64| Geometry { blocks: bytes / BLOCK as u64, block_bytes: BLOCK as u32 };
    for (journal, overlay, is_taken) in [(32, 32, true), (31, 32, false), (32, 31, false)] {
        let mut rig = Rig::new(1, &[]);
        rig.secondary = Secondary::new(SecondaryConfig { journal_bytes_min: 32 << 10, ..rig.config }, 1);
        let config = GroupConfig {
            name: "g".to_owned(),
            journal: VolumeId(1),
            journal_geometry: log(journal << 10),
            overlay: Some((VolumeId(2), log(overlay << 10))),
            apply_delay_ns: 0,
        };
        let now = rig.now();
        let answer = rig.secondary.group_create(now, config, &mut rig.world);
        assert_eq!(answer.is_ok(), is_taken, "{answer:?}");
    }
}

#[test]
fn failing_devices_are_tried_again_until_they_work() {
    for volume in [Rig::journal_volume(0), VolumeId(0), VolumeId(1)] {
        let mut rig = working(2);
        rig.world.failing = Some((volume, 7));
        for _ in 0..5 {
            rig.write(0);
        }
        for _ in 0..60 {
            rig.mono += 2 * crate::journal::RETRY_NS;
            rig.hello();
            for _ in 0..40 {
                rig.deliver(0);
            }
            rig.settle();
        }
        assert_eq!(rig.world.failing, Some((volume, 0)), "the errors came");
        rig.drain();
        rig.assert_cut();
        rig.crash();
        rig.settle();
        rig.assert_cut();
    }
}

/// A group whose metadata is not written for the journal's sake.
fn unattested(seed: u64) -> Rig {
    let mut rig = Rig::new(seed, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
    rig.config.checkpoint_interval_ns = u64::MAX / 2;
    (rig.config.attest_after_ns, rig.config.limit_interval_ns) = (u64::MAX / 2, u64::MAX / 2);
    rig.secondary = Secondary::new(rig.config, 1);
    rig.create();
    rig.settle();
    rig.drain();
    rig
}

fn committed_end(rig: &Rig) -> u64 {
    let Phase::Ready(ready) = &rig.secondary.groups[&group()].phase else { panic!() };
    ready.journal.committed_end()
}

fn attested(rig: &Rig) -> u64 {
    let Phase::Ready(ready) = &rig.secondary.groups[&group()].phase else { panic!() };
    ready.applier.attested()
}

#[test]
fn a_block_is_applied_only_when_something_durable_says_that_it_is() {
    let mut rig = unattested(3);
    let mut before = rig.volume("g", "a");
    for _ in 0..5 {
        let start = committed_end(&rig);
        rig.write(0);
        rig.drain();
        assert_eq!(attested(&rig), start, "the block behind says it of the one before");
        let history = &rig.senders[0].history;
        let last = history.last().unwrap().0.stamp.time;
        let applied = rig.replay("g", "a", Time(last.0 - 1));
        assert!(rig.volume("g", "a") == applied, "all but the last");
        assert!(rig.status("g").recovery_point >= last, "it counts all the same");
        before = applied;
    }
    // A start, at which the metadata is written for what was found: nothing is applied before that is durable.
    rig.kill();
    while rig.status("g").phase == GroupPhase::Opening {
        rig.complete();
        rig.turn();
    }
    rig.world.holds_meta = true;
    rig.settle();
    assert!(rig.volume("g", "a") == before);
    rig.world.holds_meta = false;
    rig.settle();
    rig.assert_cut();
    assert_eq!(attested(&rig), committed_end(&rig));
}

#[test]
fn when_nothing_more_comes_the_metadata_is_written_once_and_the_last_block_is_applied() {
    let mut rig = unattested(3);
    rig.config.attest_after_ns = 10_000;
    rig.crash();
    rig.settle();
    rig.drain();
    let writes = |rig: &Rig| rig.world.metas;
    let (before, mono) = (writes(&rig), rig.mono);
    rig.write(0);
    rig.hello();
    for _ in 0..40 {
        rig.deliver(0);
    }
    rig.beacon(0);
    while attested(&rig) < committed_end(&rig) || committed_end(&rig) == 0 {
        rig.complete();
        rig.mono += 100;
        let now = rig.now();
        rig.secondary.turn(now, &mut rig.world);
    }
    assert!(rig.mono >= mono + 10_000);
    rig.drain();
    rig.assert_cut();
    assert_eq!(writes(&rig), before + 1);
    rig.mono += 1_000_000;
    rig.settle();
    assert_eq!(writes(&rig), before + 1, "nothing is written without a reason");
}

#[test]
fn a_recovery_point_that_was_reported_is_found_again_after_a_crash_at_any_event() {
    for seed in 0..20 {
        let mut rig = Rig::new(seed, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
        rig.resyncs = seed % 2 == 0;
        rig.journal_blocks = 1 << 10;
        rig.create();
        rig.settle();
        rig.drain();
        let mut reported = Time(0);
        for _ in 0..10 {
            for _ in 0..seed * 3 {
                rig.step();
                reported = reported.max(rig.status("g").recovery_point);
            }
            // An idle primary: its beacons move the limit.
            for _ in 0..30 {
                rig.clock += 1000;
                rig.beacon(0);
                rig.turn();
                rig.complete();
                reported = reported.max(rig.status("g").recovery_point);
            }
            rig.crash();
            while rig.status("g").phase == GroupPhase::Opening {
                assert_eq!(rig.status("g").recovery_point, Time(0), "not known yet");
                rig.complete();
                rig.turn();
            }
            let found = rig.status("g").recovery_point;
            assert!(found >= reported, "seed {seed}: {reported} was reported, {found} is found");
            rig.drain();
        }
        assert!(reported > Time(0));
    }
}

#[test]
fn the_recovery_point_of_an_idle_group_moves_and_its_metadata_is_written_ever_more_rarely_for_it() {
    let mut rig = unattested(3);
    let pace = &mut rig.secondary.groups.get_mut(&group()).unwrap().attest.config;
    (pace.attest_after_ns, pace.limit_interval_ns, pace.limit_interval_ns_max) = (10_000, 100_000, 500_000);
    rig.write(0);
    while committed_end(&rig) == 0 {
        rig.hello();
        rig.deliver(0);
        rig.beacon(0);
        rig.turn();
        rig.complete();
    }
    let before = rig.world.metas;
    let mut moves = Vec::new();
    let mut point = rig.status("g").recovery_point;
    let start = rig.mono;
    while rig.mono < start + 3_000_000 {
        (rig.clock, rig.mono) = (rig.clock + 10_000, rig.mono + 9_500);
        rig.hello();
        rig.beacon(0);
        rig.turn();
        while rig.complete() {}
        let status = rig.status("g");
        assert!(status.recovery_point <= status.limit);
        if status.recovery_point > point {
            point = status.recovery_point;
            moves.push(rig.mono);
        }
    }
    assert!((6..=9).contains(&moves.len()), "{moves:?}");
    assert!(rig.world.metas - before <= moves.len() as u64 + 2);
    assert!(moves.windows(2).all(|two| two[1] - two[0] <= 530_000), "{moves:?}");
}

#[test]
fn a_damaged_journal_is_reported_and_never_skipped_but_a_torn_tail_is_cut() {
    for at in [0_u64, 1, 2] {
        // Three commits that no checkpoint has covered, and no metadata knows.
        let mut rig = unattested(8);
        let mut starts = Vec::new();
        for _ in 0..3 {
            starts.push(committed_end(&rig));
            rig.write(0);
            rig.drain();
        }
        let lba = 8 + starts[at as usize];
        let journal = rig.world.disks.get_mut(&Rig::journal_volume(0)).unwrap();
        let mut block: [u8; BLOCK] = journal.read(Extent { lba, blocks: 1 }).try_into().unwrap();
        block[90] ^= 4;
        journal.put(lba, block);
        rig.crash();
        rig.settle();
        let status = rig.status("g");
        if at == 2 {
            // Nothing behind it says that it was durable: what a torn append looks like. The primary knows better.
            assert_eq!(status.phase, GroupPhase::Active);
            assert_eq!(status.streams[0].durable, Seq(2));
            let open = open(&rig);
            for _ in 0..2 {
                assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(open.clone()))), Refusal::LostData);
                // What is missing may be on the volumes: they are no cut, and nothing makes them one.
                let status = rig.status("g");
                assert_eq!((status.phase, status.consistent), (GroupPhase::Failed, false));
                assert!(status.reason.unwrap().contains("lost data"));
                let (ticket, now) = (rig.ticket(), rig.now());
                let consent = TakeoverConsent { old_primary_fenced: true, accept_split: true };
                let refused =
                    rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world);
                assert!(matches!(refused, Err(OperatorError::WrongState(text)) if text.contains("lost data")));
                let resync = OpenStream { epoch: Epoch(2), unit: Some(1), base: Seq(4), ..open.clone() };
                assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(resync))), Refusal::LostData);
                rig.crash();
                rig.settle();
            }
        } else {
            assert_eq!(status.phase, GroupPhase::Failed);
            assert!(!status.consistent && status.reason.unwrap().contains("damaged"));
        }
    }
}

#[test]
fn a_commit_ends_only_where_the_time_changes() {
    use super::group::cut;
    use crate::journal::Item;
    let item = |time: u64, stream: u64| Item::<std::rc::Rc<[u8]>> {
        record: Record {
            head: RecordHead {
                stamp: Stamp { time: Time(time), stream: StreamId(stream), seq: Seq(1) },
                pair: PairId(1),
                kind: RecordKind::Unmap,
                extent: Extent { lba: 0, blocks: 1 },
                payload_bytes: 0,
            },
            payload: None,
        },
        epoch: Epoch(1),
        generation: (1, 1),
        charged: true,
    };
    let each = item(1, 1).entry_bytes();
    let list = |times: &[u64]| times.iter().enumerate().map(|(stream, time)| item(*time, stream as u64)).collect();
    assert_eq!(cut(&list(&[1, 2, 3]), 3 * each), (3, false));
    assert_eq!(cut(&list(&[1, 2, 3]), 2 * each), (2, false));
    assert_eq!(cut(&list(&[1, 2, 2]), 2 * each), (1, false), "a cut between records of one time is none");
    assert_eq!(cut(&list(&[2, 2, 2]), 2 * each), (2, true), "the commit goes on");
    assert_eq!(cut(&list(&[2, 3]), each / 2), (1, false), "one record always goes");
}

#[test]
fn metadata_comes_back_as_it_was_and_no_bytes_panic() {
    let mut rig = working(3);
    take_over(&mut rig);
    let meta = rig.secondary.groups[&group()].meta.clone();
    let bytes = meta.encode();
    assert_eq!(GroupMeta::decode(&bytes), Ok(meta));
    for at in 0..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 0x40;
        assert!(GroupMeta::decode(&broken).is_err(), "byte {at}");
        assert!(GroupMeta::decode(&bytes[..at]).is_err());
        // With a checksum that fits, what is inside must still be read with care.
        let body = bytes.len() - 4;
        if at < body {
            let crc = crate::crc::crc32c(&broken[..body]).to_le_bytes();
            broken[body..].copy_from_slice(&crc);
            let _ = GroupMeta::decode(&broken);
        }
    }
}

#[test]
fn the_journal_is_not_written_over_before_the_checkpoint_is_durable() {
    for seed in 0..10 {
        let mut rig = Rig::new(seed, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
        rig.create();
        rig.settle();
        rig.drain();
        rig.world.holds_meta = true;
        for _ in 0..60 {
            for _ in 0..14 {
                if rig.senders[0].history.len() as u64 - rig.senders[0].durable.0 < 14 {
                    rig.write(0);
                }
                for _ in 0..12 {
                    rig.deliver(0);
                }
                rig.beacon(0);
            }
            rig.mono += 10_000;
            rig.settle();
        }
        assert!(rig.status("g").reason.unwrap().contains("the journal is full"), "and that is shown");
        rig.world.holds_meta = false;
        rig.crash();
        rig.settle();
        assert_eq!(rig.status("g").phase, GroupPhase::Active);
        rig.assert_cut();
        rig.drain();
        rig.assert_cut();
    }
}

#[test]
fn every_start_raises_the_recovery_epoch_before_it_takes_records() {
    let mut rig = working(1);
    for start in 2..6 {
        let id = group();
        rig.crash();
        rig.settle();
        assert_eq!(rig.status("g").phase, GroupPhase::Active);
        let value = rig.world.meta.get(&meta::key_of(id)).unwrap();
        assert_eq!(GroupMeta::decode(value).unwrap().recovery_epoch, start, "durable when the group is open");
    }
}

#[test]
fn a_journal_that_is_shorter_than_the_metadata_knows_is_damaged() {
    let mut rig = working(4);
    rig.crash();
    rig.settle();
    let id = group();
    let mut meta = rig.secondary.groups[&id].meta.clone();
    meta.checkpoint.durable_end += 1;
    rig.world.meta.insert(meta::key_of(id), meta.encode());
    rig.crash();
    rig.settle();
    assert_eq!(rig.status("g").phase, GroupPhase::Failed);
}

#[test]
fn what_a_volume_forgot_when_its_flush_failed_is_written_again_from_the_journal() {
    for failures in 1..4 {
        let mut rig = working(3);
        rig.world.failing = Some((VolumeId(0), failures));
        rig.world.failing_flushes_only = true;
        for _ in 0..6 {
            rig.write(0);
            rig.drain();
        }
        for _ in 0..8 {
            rig.mono += 2 * crate::journal::RETRY_NS;
            rig.settle();
        }
        assert_eq!(rig.world.failing, Some((VolumeId(0), 0)), "the errors came");
        rig.drain();
        rig.assert_cut();
        rig.crash();
        rig.settle();
        rig.assert_cut();
    }
}

#[test]
fn a_journal_block_that_goes_bad_before_it_is_applied_fails_the_group_and_a_takeover_with_a_reason() {
    for (byte, takes_over) in [(90, false), (90, true), (3, false), (3, true)] {
        // Three commits that no checkpoint has covered.
        let mut rig = Rig::new(8, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
        rig.config.checkpoint_interval_ns = u64::MAX / 2;
        rig.secondary = Secondary::new(rig.config, 1);
        rig.create();
        rig.settle();
        rig.drain();
        let mut starts = Vec::new();
        for _ in 0..3 {
            let Phase::Ready(ready) = &rig.secondary.groups[&group()].phase else { panic!() };
            starts.push(ready.journal.committed_end());
            rig.write(0);
            rig.drain();
        }
        rig.crash();
        while rig.status("g").phase != GroupPhase::Active {
            rig.complete();
            rig.turn();
        }
        // The search found all three whole; they are read once more to be applied.
        let lba = 8 + starts[1];
        let journal = rig.world.disks.get_mut(&Rig::journal_volume(0)).unwrap();
        let mut block: [u8; BLOCK] = journal.read(Extent { lba, blocks: 1 }).try_into().unwrap();
        block[byte] ^= 4;
        journal.put(lba, block);
        let (ticket, now) = (rig.ticket(), rig.now());
        if takes_over {
            let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
            rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world).unwrap();
        }
        rig.settle();
        let status = rig.status("g");
        assert_eq!(status.phase, GroupPhase::Failed);
        let at = format!("damaged at block {}", starts[1]);
        assert!(!status.consistent && status.reason.as_ref().is_some_and(|it| it.contains(&at)), "{status:?}");
        if takes_over {
            let answer = &rig.world.answers[&ticket.0];
            assert!(matches!(answer, Err(OperatorError::WrongState(text)) if text.contains(&at)), "{answer:?}");
        }
    }
}

#[test]
fn a_primary_whose_session_is_up_is_told_at_once_that_the_journal_is_damaged() {
    let mut rig = Rig::new(8, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
    rig.create();
    rig.settle();
    rig.drain();
    rig.write(0);
    rig.drain();
    assert_eq!(rig.heard, []);
    // As when a block that is read back to be applied does not check.
    let now = rig.now();
    rig.secondary.act(now, group(), &mut rig.world, |group, io, _| group.fail_damaged(io, 7, 9));
    rig.turn();
    assert_eq!(rig.status("g").phase, GroupPhase::Failed);
    let [Message::Refused { group: id, subject, refusal, text }] = &rig.heard[..] else { panic!("{:?}", rig.heard) };
    assert_eq!((*id, *subject), (group(), Subject::Stream(rig.senders[0].stream, Epoch(1))));
    assert_eq!(*refusal, Refusal::Never, "no resync mends it");
    assert!(text.contains("\"g\"") && text.contains("check the device"), "{text}");
}

#[test]
fn what_an_older_version_stored_of_a_group_is_read() {
    use super::super::codec::Writer;
    for version in [1_u32, 2] {
        let mut w = Writer::default();
        w.u32(version);
        w.text("g");
        w.u8(1);
        [1, 7, 0, 99, 5].into_iter().for_each(|number| w.u64(number));
        w.u64(12);
        w.u32(0xabcd);
        w.u64(1000);
        w.u64(13);
        w.list(&[3_u64], |w, id| {
            [*id, 4].into_iter().for_each(|number| w.u64(number));
            w.u8(3);
            [2, 1, 900, 17].into_iter().for_each(|number| w.u64(number));
            w.u8(0);
            w.u32(0);
            w.u64(18);
        });
        w.list(&["a"], |w, name| {
            w.u64(5);
            w.text(name);
            w.u64(VOLUME_BLOCKS);
            w.u32(512);
            w.u8(1);
            w.u8(1);
            w.u64(3);
            w.u8(1);
            w.u8(0);
        });
        w.u64(1001);
        w.u8(1);
        w.u64(1000);
        [2, 8, 7].into_iter().for_each(|number| w.u64(number));
        w.u32(0);
        w.u32(0);
        w.u32(0);
        if version == 2 {
            w.u8(1);
        }
        let meta = GroupMeta::decode(&w.finish()).unwrap();
        assert_eq!((meta.generation.number, meta.checkpoint.position, meta.greatest_time), (1, 12, Time(1001)));
        assert_eq!((meta.streams[0].durable, meta.pairs[0].name.as_str()), (Seq(17), "a"));
        assert!(meta.pairs[0].is_whole_at(Time(0)), "it was a pair of the image then");
        assert_eq!((meta.unit.is_none(), meta.split_accepted), (true, version == 2));
        assert_eq!(meta.certificate.as_ref().unwrap().never_consistent, []);
        assert_eq!(GroupMeta::decode(&meta.encode()), Ok(meta), "and written as the newest");
    }
}
