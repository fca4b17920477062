//! Single situations, each with the sequence that leads to it.

mod copying;
mod devices;
mod journal;
mod opening;
mod overlay;
mod pairs;
mod resize;
mod resync;
mod streams;
mod takeover;
mod view;
mod window;

use super::rig::{BLOCK, Rig, VOLUME_BLOCKS, geometry};
use super::*;
use crate::message::{Content, JoinPair, OpenStream, Refusal, Subject};
use crate::ports::OperatorAnswer;
use crate::stream::{CHARGE_BYTES_MAX, Fragment};
use crate::types::{Extent, Generation, Initial, RecordHead, RecordKind, Scope, Stamp};

pub(super) fn group() -> GroupId {
    GroupId::of_name("g")
}

/// One primary, one group, two pairs; open and joined, with `writes` records arrived and durable.
pub(super) fn working(writes: usize) -> Rig {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.create();
    rig.settle();
    rig.drain();
    for _ in 0..writes {
        rig.write(0);
        rig.drain();
    }
    rig
}

/// What the secondary answers, of this turn's end.
pub(super) fn ask(rig: &mut Rig, link: u32, from: u64, message: Message) -> Vec<Message> {
    rig.world.messages.clear();
    let now = rig.now();
    rig.secondary.message(now, LinkId(link), SystemId(from), message, &mut rig.world);
    while rig.complete() {
        let now = rig.now();
        rig.secondary.turn(now, &mut rig.world);
    }
    std::mem::take(&mut rig.world.messages).into_iter().filter(|(to, _)| to.0 == link).map(|(_, it)| it).collect()
}

pub(super) fn open(rig: &Rig) -> OpenStream {
    let sender = &rig.senders[0];
    OpenStream {
        group: group(),
        group_name: "g".to_owned(),
        generation: sender.generations.get(&group()).copied().unwrap_or_default(),
        stream: sender.stream,
        scope: Scope::Group,
        epoch: sender.epoch,
        base: Seq(1),
        base_time: sender.base_time,
        acknowledged: sender.durable,
        drained: None,
        unit: None,
        strand: 0,
    }
}

pub(super) fn refusal(answers: &[Message]) -> Refusal {
    match answers {
        [Message::Refused { refusal, text, .. }] => {
            assert!(text.len() > 20, "a sentence: {text}");
            *refusal
        }
        other => panic!("not one refusal: {other:?}"),
    }
}

/// Takes the group over at a point, and waits until that is done.
pub(super) fn take_over_at(rig: &mut Rig, at: TakeoverAt) -> Result<crate::takeover::LossCertificate, OperatorError> {
    let (ticket, now) = (rig.ticket(), rig.now());
    let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
    rig.secondary.group_takeover(now, group(), consent, at, ticket, &mut rig.world)?;
    rig.settle();
    match rig.world.answers.remove(&ticket.0) {
        Some(Ok(OperatorAnswer::TakenOver(certificate))) => Ok(certificate),
        other => panic!("{other:?}"),
    }
}

pub(super) fn take_over(rig: &mut Rig) {
    let (ticket, now) = (rig.ticket(), rig.now());
    let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
    rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world).unwrap();
    rig.settle();
    assert!(matches!(rig.world.answers[&ticket.0], Ok(OperatorAnswer::TakenOver(_))));
}
