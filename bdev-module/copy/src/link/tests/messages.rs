use super::super::codec::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX, decode, encode};
use crate::message::{
    Content, CopyId, DIGESTS_MAX, EXTENTS_MAX, JoinPair, Message, OpenStream, Refusal, StreamOpened, Subject,
};
use crate::types::{Epoch, Extent, Generation, GroupId, PairId, Scope, Seq, StreamId, Time};
use proptest::prelude::*;

fn generations() -> impl Strategy<Value = Generation> {
    any::<(u64, u64, u64)>().prop_map(|(number, id, parent)| Generation { number, id, parent })
}

fn scopes() -> impl Strategy<Value = Scope> {
    prop_oneof![Just(Scope::Pair), Just(Scope::System), Just(Scope::Group)]
}

fn subjects() -> impl Strategy<Value = Subject> {
    prop_oneof![
        any::<(u64, u64)>().prop_map(|(id, epoch)| Subject::Stream(StreamId(id), Epoch(epoch))),
        any::<u64>().prop_map(|id| Subject::Pair(PairId(id))),
        Just(Subject::Group)
    ]
}

fn extents() -> impl Strategy<Value = Extent> {
    (0..u64::MAX / 2, 1..=u32::MAX).prop_map(|(lba, blocks)| Extent { lba, blocks })
}

/// What resync, initial copy, verify and swap say.
fn copying() -> impl Strategy<Value = Message> {
    let ids = || any::<(u64, u64)>().prop_map(|(group, pair)| (GroupId(group), PairId(pair)));
    let copies =
        || prop_oneof![any::<u64>().prop_map(CopyId::Unit), any::<u64>().prop_map(|id| CopyId::Pair(PairId(id)))];
    prop_oneof![
        (ids(), copies(), any::<u64>()).prop_map(|((group, _), copy, end)| Message::CopyEnd {
            group,
            copy,
            end: Time(end)
        }),
        (ids(), copies()).prop_map(|((group, _), copy)| Message::CopyDone { group, copy }),
        (ids(), any::<u64>(), extents(), proptest::collection::vec(any::<[u8; 16]>(), 0..=DIGESTS_MAX))
            .prop_map(|((group, pair), ask, extent, digests)| Message::DigestAsk { group, pair, ask, extent, digests }),
        (ids(), any::<u64>(), any::<Option<u32>>()).prop_map(|((group, pair), ask, differing)| Message::DigestAnswer {
            group,
            pair,
            ask,
            differing
        }),
        (ids(), any::<(u64, u64)>(), any::<Option<u64>>()).prop_map(|((group, pair), (stream, seq), differing)| {
            Message::Verified { group, pair, stream: StreamId(stream), seq: Seq(seq), differing }
        }),
        (ids(), proptest::collection::vec(extents(), 0..=EXTENTS_MAX))
            .prop_map(|((group, pair), extents)| Message::Differs { group, pair, extents }),
        (ids(), generations(), any::<u64>(), any::<Option<u64>>()).prop_map(
            |((group, _), generation, end, last_sum)| Message::HandOver { group, generation, end: Time(end), last_sum }
        ),
        (ids(), generations()).prop_map(|((group, _), generation)| Message::HandedOver { group, generation }),
        (ids(), any::<bool>(), "[ -~]{0,200}").prop_map(|((group, pair), is_volume, text)| Message::Trouble {
            group,
            pair: is_volume.then_some(pair),
            text
        }),
    ]
}

fn messages() -> impl Strategy<Value = Message> {
    let name = "\\PC{0,40}";
    let numbers = || any::<(u64, u64, u64, u64, u64)>();
    prop_oneof![
        (numbers(), name, generations(), scopes(), any::<Option<(u64, u64)>>(), any::<(u64, Option<u64>, u8)>())
            .prop_map(
                |(
                    (group, stream, epoch, base, time),
                    group_name,
                    generation,
                    scope,
                    drained,
                    (acknowledged, unit, strand),
                )| {
                    Message::OpenStream(OpenStream {
                        group: GroupId(group),
                        group_name,
                        generation,
                        stream: StreamId(stream),
                        scope,
                        epoch: Epoch(epoch),
                        base: Seq(base),
                        base_time: Time(time),
                        acknowledged: Seq(acknowledged),
                        drained: drained.map(|(epoch, seq)| (Epoch(epoch), Seq(seq))),
                        unit,
                        strand,
                    })
                }
            ),
        (numbers(), generations()).prop_map(|((group, stream, epoch, durable, time), generation)| {
            Message::StreamOpened(StreamOpened {
                group: GroupId(group),
                generation,
                stream: StreamId(stream),
                epoch: Epoch(epoch),
                durable: Seq(durable),
                base_time: Time(time),
                held: Time(time ^ durable),
            })
        }),
        (
            numbers(),
            name,
            name,
            any::<u32>(),
            prop_oneof![
                Just(Content::Empty),
                Just(Content::DeclaredIdentical),
                Just(Content::Established),
                Just(Content::Copy)
            ]
        )
            .prop_map(|((group, pair, stream, blocks, _), name, remote_volume, block_bytes, content)| {
                Message::JoinPair(JoinPair {
                    group: GroupId(group),
                    pair: PairId(pair),
                    name,
                    remote_volume,
                    stream: StreamId(stream),
                    blocks,
                    block_bytes,
                    content,
                })
            }),
        numbers().prop_map(|(group, pair, ..)| Message::PairJoined { group: GroupId(group), pair: PairId(pair) }),
        (numbers(), any::<bool>()).prop_map(|((group, pair, blocks, ..), is_done)| Message::Resize {
            group: GroupId(group),
            pair: PairId(pair),
            blocks,
            is_done
        }),
        numbers().prop_map(|(group, pair, blocks, ..)| Message::Resized {
            group: GroupId(group),
            pair: PairId(pair),
            blocks
        }),
        (numbers(), any::<[u8; 16]>()).prop_map(|((group, pair, ..), identity)| Message::Identity {
            group: GroupId(group),
            pair: PairId(pair),
            identity
        }),
        numbers().prop_map(|(group, pair, at, ..)| Message::LeavePair {
            group: GroupId(group),
            pair: PairId(pair),
            at: Time(at)
        }),
        numbers().prop_map(|(group, stream, epoch, end, time)| Message::CloseStream {
            group: GroupId(group),
            stream: StreamId(stream),
            epoch: Epoch(epoch),
            end: Seq(end),
            end_time: Time(time),
        }),
        (any::<u64>(), name, name).prop_map(|(group, state, reason)| Message::GroupSuspended {
            group: GroupId(group),
            state,
            reason
        }),
        (
            (any::<u64>(), subjects()),
            prop_oneof![
                Just(Refusal::NotYet),
                Just(Refusal::Never),
                Just(Refusal::LostData),
                Just(Refusal::UnsentRecords)
            ],
            name
        )
            .prop_map(|((group, subject), refusal, text)| Message::Refused {
                group: GroupId(group),
                subject,
                refusal,
                text,
            }),
        (any::<u64>(), generations())
            .prop_map(|(group, generation)| Message::Fenced { group: GroupId(group), generation }),
        copying(),
    ]
}

proptest! {
    #[test]
    fn every_message_survives_the_wire(message in messages()) {
        let bytes = encode(&message);
        prop_assert!(bytes.len() <= MESSAGE_BYTES_MAX);
        prop_assert_eq!(decode(&bytes), Some(message));
        for end in 0..bytes.len() {
            prop_assert_eq!(decode(&bytes[..end]), None);
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_none(mut bytes: Vec<u8>, variant in 0u8..19) {
        let _ = decode(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = variant;
        }
        if let Some(message) = decode(&bytes) {
            prop_assert_eq!(encode(&message), bytes);
        }
    }
}

#[test]
fn long_text_is_cut_at_a_character_and_the_message_stays_bounded() {
    let long = "Zürich→".repeat(1000);
    let join = Message::JoinPair(JoinPair {
        group: GroupId(1),
        pair: PairId(2),
        name: long.clone(),
        remote_volume: long.clone(),
        stream: StreamId(3),
        blocks: 4,
        block_bytes: 512,
        content: Content::Empty,
    });
    let bytes = encode(&join);
    assert!(bytes.len() <= MESSAGE_BYTES_MAX);
    let Some(Message::JoinPair(read)) = decode(&bytes) else { panic!("not a join") };
    assert!(long.starts_with(&read.name) && read.name.len() > NAME_BYTES_MAX - 4);
    let refused =
        Message::Refused { group: GroupId(1), subject: Subject::Pair(PairId(1)), refusal: Refusal::Never, text: long };
    assert!(encode(&refused).len() <= MESSAGE_BYTES_MAX);
}
