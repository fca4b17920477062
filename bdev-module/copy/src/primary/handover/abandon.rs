//! The way out of a hand-over whose secondary is lost for good: an operator's word takes the place of the secondary's.
//!
//! Whether the other site took the group, as generation N+1, nobody here can know. So this system goes on as N+2, a second
//! successor of N: a secondary that is still at N follows it ([`Generation::succeeds`]), one that began N+1 is told that it
//! is fenced ([`Generation::gives_up`]) and keeps what its hosts wrote until its operator gives that up.

use super::{HandOver, Note, Stage, key_of};
use crate::engine::OperatorError;
use crate::ports::{Memory, OperatorAnswer, Ticket};
use crate::primary::meta::Suspension;
use crate::primary::{Primary, Up, Uplink, Wait};
use crate::types::{Generation, GroupId, Now, PairState, SystemId};

impl<M: Memory> Primary<M> {
    /// Ends a swap whose secondary does not come back: hosts are served here again, in a generation that leaves out the
    /// number that the secondary may have begun. `discard_generation` is that number, `random` the new generation's id.
    /// Answered [`OperatorAnswer::Abandoned`] when that is durable; a resync begins by itself when the other site is back.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::WrongState`] unless the secondary was told to be the primary and
    /// cannot be asked; [`OperatorError::Invalid`] for another generation's number. The ticket is not answered then, and
    /// nothing was changed.
    pub(crate) fn abandon_swap<U>(
        &mut self,
        now: Now,
        id: GroupId,
        discard_generation: u64,
        random: u64,
        ticket: Ticket,
        ports: &mut U,
    ) -> Result<(), OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let note = self.abandonable(id, ports)?;
        let Some(group) = self.groups.get(&id) else { return Ok(()) };
        let (name, given_up) = (group.config.name.clone(), note.generation.number + 1);
        if discard_generation != given_up {
            return Err(OperatorError::Invalid(format!(
                "discard_generation {discard_generation} is given: the other site was told to go on with group {name} as \
                 generation {given_up}, and what hosts may have written there since is not here; name generation \
                 {given_up} to give it up"
            )));
        }
        let generation = Generation { number: given_up + 1, id: random, parent: note.generation.id };
        let reason = format!(
            "the swap was abandoned: generation {given_up}, which the other site may have begun, is given up; this site \
             goes on as generation {}, and resyncs the other one when that is back",
            generation.number
        );
        ports.log(format_args!(
            "group {name}: swap abandoned, hosts are served here as generation {}",
            generation.number
        ));
        if let Some(group) = self.groups.get_mut(&id) {
            group.generation = generation;
        }
        let is_sending = self.groups.get(&id).is_some_and(super::super::Group::is_sending);
        match is_sending {
            true => {
                let state = PairState::SuspendedError;
                // Up to there both hold the same.
                let suspension = Suspension { state, reason, first_missed: Some(note.end), auto: true };
                self.suspend_all(now, id, suspension, None, ports);
            }
            false => self.keep_group(id, ports),
        }
        let before = self.handovers.get_mut(&id).and_then(|handover| {
            handover.stage = Stage::Abandoned(generation);
            handover.ticket.replace(ticket)
        });
        if let Some(before) = before {
            let text = format!("the swap of group {name} was abandoned by the operator; hosts are served here");
            ports.answer_operator(before, Err(OperatorError::WrongState(text)));
        }
        // Behind the group's record: a start that finds this finds the generation.
        self.keep(&key_of(id), &[], Wait::HandOver(id), ports);
        self.settle(now, ports);
        Ok(())
    }

    /// The note of a hand-over that only an operator can end.
    fn abandonable(&self, id: GroupId, ports: &impl Up<M>) -> Result<Note, OperatorError> {
        let Some(group) = self.groups.get(&id) else {
            return Err(OperatorError::NotFound("there is no such group that is a primary here".to_string()));
        };
        let obstacle = match self.handovers.get(&id).map(|handover| &handover.stage) {
            None => "it is not being handed over; there is no swap to abandon".to_string(),
            Some(_) if self.retiring.contains(&id) => "it is becoming a secondary: the swap is done".to_string(),
            Some(Stage::Draining { .. } | Stage::Flushing { .. }) => {
                "the secondary has not been told of the swap yet, so it ends by itself if that is lost; wait for that".into()
            }
            Some(Stage::Recording(_)) => "how far the hand-over is is becoming durable; try again in a moment".to_string(),
            Some(Stage::Returning(_)) => "the secondary refused the swap: hosts are served here in a moment".to_string(),
            Some(Stage::Abandoned(_)) => "it is being abandoned already; wait for that".to_string(),
            Some(Stage::Over { generation, .. }) => format!(
                "the other site has said that it is the primary, as generation {}; this side follows it, and can be taken \
                 over then (group_takeover)",
                generation.number
            ),
            Some(Stage::Told { .. }) if ports.session_is_up(group.config.link) => {
                "the link to the secondary is up, and its word ends it; if that never comes, cut it off first (shut that \
                 system down)"
                    .to_string()
            }
            Some(Stage::Told { note, .. }) => return Ok(*note),
        };
        Err(OperatorError::WrongState(format!(
            "the swap of group {} cannot be abandoned: {obstacle}",
            group.config.name
        )))
    }

    /// The new generation is durable, and that nothing is handed over: hosts are served.
    pub(super) fn abandoned(&mut self, id: GroupId, generation: Generation, ports: &mut impl Up<M>) {
        let Some(HandOver { ticket, .. }) = self.handovers.remove(&id) else { return };
        if let Some(ticket) = ticket {
            ports.answer_operator(ticket, Ok(OperatorAnswer::Abandoned { generation }));
        }
        self.due = crate::types::Mono(0);
    }

    /// The generation for which this primary may speak to another one of its group, at its remote system: durable, and its
    /// own.
    pub(crate) fn rules(&self, id: GroupId, remote: SystemId) -> Option<Generation> {
        let group = self.groups.get(&id).filter(|group| group.config.remote == remote)?;
        let is_changing = self.handovers.contains_key(&id) || self.retiring.contains(&id) || group.fenced.is_some();
        (!is_changing && group.generation.number > 0).then_some(group.generation)
    }
}
