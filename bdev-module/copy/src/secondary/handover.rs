//! A planned swap, seen from the secondary: it becomes the primary with nothing lost, or says that it will not.
//!
//! A request stays until it is decided or its session ends: whatever can still become possible by itself (the journal is
//! being opened, a block is being written) is waited for, everything else is refused. One answer per request; the primary
//! serves hosts again when it hears a refusal, so what was refused is never done ([`super::Secondary::hand_overs_on`]
//! drops the request before it sends the refusal).

use super::group::{Group, Phase};
use super::io::{Io, Op};
use super::meta::{Image, key_of};
use super::{Downlink, Secondary};
use crate::message::{Message, Refusal, Subject};
use crate::types::{Generation, GroupId, LinkId, Now, SystemId, Time};

const VERSION: u8 = 1;

/// A primary's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) link: LinkId,
    pub(crate) from: SystemId,
    /// The generation that ends.
    pub(crate) generation: Generation,
    pub(crate) end: Time,
    pub(crate) last_sum: Option<u64>,
}

/// Which takeover was a swap's, under `secondary/handed/<group>`: durable before the seal is. Its generation tells it from
/// an attempt that was never sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handed {
    pub(crate) generation: Generation,
    pub(crate) from: SystemId,
}

fn key(group: GroupId) -> String {
    format!("secondary/handed/{:016x}", group.0)
}

enum Verdict {
    Wait,
    Take,
    Say(Message),
}

impl Handed {
    fn encode(self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let Generation { number, id, parent } = self.generation;
        for value in [number, id, parent, self.from.0] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Handed> {
        let [VERSION, rest @ ..] = bytes else { return None };
        let numbers =
            rest.chunks(8).map(|it| it.try_into().ok().map(u64::from_le_bytes)).collect::<Option<Vec<_>>>()?;
        let [number, id, parent, from] = *numbers else { return None };
        Some(Handed { generation: Generation { number, id, parent }, from: SystemId(from) })
    }

    /// What metadata knows.
    pub(crate) fn recall(id: GroupId, ports: &impl Downlink) -> Option<Handed> {
        ports.recall(&key(id)).and_then(|value| Handed::decode(&value))
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    /// A primary wants this system to be the primary.
    pub(super) fn asked_to_take(&mut self, group: GroupId, asked: Asked) {
        self.hand_overs.insert(group, asked);
    }

    /// Decides what can be decided.
    pub(super) fn hand_overs_on(&mut self, now: Now, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        for (id, asked) in self.hand_overs.clone() {
            match self.judge_hand_over(id, &asked, ports) {
                Verdict::Wait => {}
                Verdict::Say(message) => {
                    self.hand_overs.remove(&id);
                    ports.send_message(asked.link, message);
                }
                Verdict::Take => {
                    let random = self.random();
                    self.act(now, id, ports, |group, io, _| group.take_in_swap(io, &asked, random));
                }
            }
        }
    }

    fn judge_hand_over(&self, id: GroupId, asked: &Asked, ports: &impl Downlink<Buf = B, Shared = S>) -> Verdict {
        let refuse = |refusal: Refusal, text: String| {
            Verdict::Say(Message::Refused { group: id, subject: Subject::Group, refusal, text })
        };
        let Some(group) = self.groups.get(&id) else {
            let is_known = ports.recall(&key_of(id)).is_some_and(|value| !value.is_empty());
            // It will be opened soon after a start.
            return match is_known {
                true => Verdict::Wait,
                false => refuse(Refusal::Never, "the secondary does not have the group".to_owned()),
            };
        };
        let (name, mine) = (&group.meta.name, group.meta.generation);
        if mine != asked.generation {
            let is_done = group.handed == Some(Handed { generation: mine, from: asked.from });
            return match is_done && mine.is_child_of(asked.generation) {
                true if matches!(group.phase, Phase::TakenOver) => {
                    Verdict::Say(Message::HandedOver { group: id, generation: mine })
                }
                true => Verdict::Wait,
                false if mine.number > asked.generation.number => {
                    Verdict::Say(Message::Fenced { group: id, generation: mine })
                }
                false => refuse(Refusal::Never, format!("group \"{name}\" has another history at the secondary")),
            };
        }
        if group.takeover.is_some() {
            return Verdict::Wait;
        }
        match &group.phase {
            Phase::Failed(reason) => return refuse(Refusal::Never, format!("group \"{name}\": {reason}")),
            Phase::Ready(_) => {}
            _ => return Verdict::Wait,
        }
        if let Some((refusal, text)) = group.swap_obstacle(asked) {
            return refuse(refusal, text);
        }
        let is_quiet = group.waiting.is_empty() && group.inlets.values().all(|inlet| inlet.undurable.is_empty());
        if !is_quiet || !group.is_drained() || group.admitting > 0 {
            return Verdict::Wait;
        }
        let owned = group.meta.streams.iter().filter(|stream| !stream.closed);
        let durable = owned.map(|stream| group.inlets.get(&stream.id).map_or(stream.durable, |inlet| inlet.durable).0);
        let sum = durable.fold(0, u64::wrapping_add);
        if asked.last_sum.is_some_and(|last| last != sum) {
            let text = format!(
                "group \"{name}\": the secondary does not have every record that the primary knows it had acknowledged (sum \
                 of last numbers {sum}, the primary's is {}): it has lost data, or a stream's end is still on its way",
                asked.last_sum.unwrap_or(0)
            );
            return refuse(Refusal::LostData, text);
        }
        Verdict::Take
    }
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// Why this system cannot become the primary with nothing lost.
    fn swap_obstacle(&self, asked: &Asked) -> Option<(Refusal, String)> {
        let name = &self.meta.name;
        if !self.is_reversible {
            let text =
                format!("group \"{name}\": the secondary has no link back to the primary: group_create it with one");
            return Some((Refusal::Never, text));
        }
        if !self.is_receiving() {
            let text =
                format!("group \"{name}\" of the secondary does not receive ({})", self.reason().unwrap_or_default());
            return Some((Refusal::NotYet, text));
        }
        if self.meta.unit.is_some() || self.hold.is_some() || !self.unit_opens.is_empty() {
            return Some((Refusal::NotYet, format!("group \"{name}\" is being resynced: wait until that is done")));
        }
        if let Some(other) = self.meta.streams.iter().find(|it| !it.closed && it.owner != asked.from) {
            let text = format!(
                "group \"{name}\" has another primary system ({:x}): a swap is for groups with one",
                other.owner.0
            );
            return Some((Refusal::Never, text));
        }
        if self.view_gate.is_some() {
            let text =
                format!("group \"{name}\" is under test at the secondary: end that there with group_test_stop first");
            return Some((Refusal::NotYet, text));
        }
        if !self.meta.discarded.is_empty() {
            let text = format!("group \"{name}\" threw records away that no resync has brought again: group_resync it");
            return Some((Refusal::Never, text));
        }
        for pair in self.meta.pairs.iter() {
            let reason = if !self.volumes.contains_key(&pair.id) {
                "has no volume attached at the secondary: create it there again"
            } else if pair.stream.is_none() || pair.left {
                "is not joined at the secondary: delete it there first"
            } else if !matches!(pair.image, Image::Whole(_)) {
                "is not whole at the secondary: wait for its first copy"
            } else {
                continue;
            };
            return Some((Refusal::NotYet, format!("pair \"{}\" of group \"{name}\" {reason}", pair.name)));
        }
        None
    }

    /// Everything is here and journaled: takes over, as a swap.
    fn take_in_swap<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, asked: &Asked, random: u64) {
        assert!(self.released.is_empty() && self.waiting.is_empty(), "zero loss in a swap");
        // "Every record has this time or an earlier one", and all are here.
        self.limit = self.limit.max(asked.end);
        self.set_journaled(self.limit);
        let old = self.meta.generation;
        let generation = Generation { number: old.number + 1, id: random.max(1), parent: old.id };
        let handed = Handed { generation, from: asked.from };
        self.handed = Some(handed);
        let token = io.tokens.issue(self.id, Op::Meta);
        io.ports.persist(&key(self.id), &handed.encode(), token);
        io.ports.log(format_args!("group \"{}\": the primary hands it over at {}", self.meta.name, asked.end));
        self.begin_swap(random);
    }

    /// Whether the takeover under way, or the last one, is a swap's.
    pub(crate) fn is_handed(&self) -> bool {
        self.handed.is_some_and(|handed| handed.generation == self.meta.generation)
    }

    /// Whether this system is not to be told that it is fenced: it handed the group over, and hears just that.
    pub(crate) fn handed_by(&self, system: Option<SystemId>) -> bool {
        self.is_handed() && self.handed.is_some_and(|handed| Some(handed.from) == system)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_takeover_was_a_swap_s_is_read_back_and_a_cut_value_is_not() {
        let generation = Generation { number: 3, id: 4, parent: 5 };
        let handed = Handed { generation, from: SystemId(6) };
        let whole = handed.encode();
        assert_eq!(Handed::decode(&whole), Some(handed));
        for len in 0..whole.len() {
            assert_eq!(Handed::decode(&whole[..len]), None);
        }
    }
}
