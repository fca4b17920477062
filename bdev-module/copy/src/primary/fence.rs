//! Another site continues the history: this one is fenced, or in split brain.

use super::request::Stage;
use super::suspend::FirstMissed;
use super::{Group, Primary, Up};
use crate::ports::{HostError, Memory};
use crate::types::{Generation, GroupId, Now, PairState};

impl<M: Memory> Primary<M> {
    /// The other site says that another generation exists.
    pub(super) fn take_fenced(&mut self, now: Now, id: GroupId, newer: Generation, ports: &mut impl Up<M>) {
        let Some(group) = self.groups.get(&id) else { return };
        let ours = group.generation;
        let name = group.config.name.clone();
        if ours.number == 0 {
            let text = format!(
                "group {name} is at generation {} at the secondary, taken over there; delete it there, or choose \
                 another name",
                newer.number
            );
            return self.fail_opening(id, text, ports);
        }
        self.abandon_drain(id, ports);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let is_known = group.fenced == Some(newer) || group.rival == Some(newer);
        if is_known || newer == ours || newer.number < ours.number {
            return;
        }
        if newer.number == ours.number {
            (group.split_brain, group.rival) = (true, Some(newer));
        } else {
            let is_split = newer.number == ours.number + 1 && !newer.is_child_of(ours) && !newer.gives_up(ours);
            (group.fenced, group.rival) = (Some(newer), None);
            group.split_brain |= is_split;
        }
        let reason = group.other_history().unwrap_or_default();
        ports.log(format_args!("group {name}: {reason}"));
        self.suspend(now, id, PairState::SuspendedError, reason, FirstMissed::Known, ports);
        if newer.number > ours.number {
            self.fence_hand_over(id, newer, ports);
            ports.log(format_args!("group {name} is fenced: all host I/O fails from here on"));
            self.fail_all(id, ports);
        }
        self.keep_group(id, ports);
    }

    /// Fails every request of a fenced group, but those that the device holds: they fail when it gives them back.
    fn fail_all(&mut self, id: GroupId, ports: &mut impl Up<M>) {
        let members = self.groups[&id].pairs.clone();
        for pair in &members {
            self.fail_waiting(*pair, HostError::Fenced, ports);
        }
        let is_finished = |stage: &Stage<M>| matches!(stage, Stage::Answering { .. });
        let finished = self.requests.iter().filter(|(_, request)| is_finished(&request.stage));
        let of_group = finished.filter(|(_, request)| members.contains(&request.pair));
        for key in of_group.map(|(key, _)| key).collect::<Vec<_>>() {
            self.answer(key, ports);
        }
    }
}

impl Group {
    /// Why this site does not go on with its secondary: the other site's generation, and how an operator ends that.
    pub(super) fn other_history(&self) -> Option<String> {
        let (ours, name) = (self.generation, &self.config.name);
        if let Some(newer) = self.fenced {
            return Some(if newer.gives_up(ours) {
                format!(
                    "the other site gave generation {} up, which was begun here, and goes on as generation {}: what hosts \
                     wrote here since is here only; group_failback with discard_generation {} gives it up",
                    ours.number, newer.number, ours.number
                )
            } else if newer.number == ours.number + 1 && !newer.is_child_of(ours) {
                format!(
                    "another site took the group over: generation {}, which does not continue this history (split brain)",
                    newer.number
                )
            } else {
                format!("another site took the group over: generation {}", newer.number)
            });
        }
        let other = self.rival?;
        Some(format!(
            "split brain: generation {} was begun twice, here as {:016x}, at the other site as {:016x}; decide which \
             history stays. Where it is given up: group_failback of {name} with discard_generation {} and discard_id, which \
             is {:016x} here, {:016x} there; then group_failback of {name} at the other site, without them",
            ours.number, ours.id, other.id, ours.number, ours.id, other.id
        ))
    }
}
