//! A group changes its part at this system: from secondary to primary by a takeover, from primary to secondary by failback
//! or swap. Both parts are machines of their own; here is only what moves a group from one to the other.
//!
//! Everything is done from what the two parts say of themselves now ([`Engine::settle_roles`]), again whenever that may have
//! changed, also after a start: a step that a crash interrupted is simply due again.

use super::{Engine, OperatorError, World};
use crate::message::Message;
use crate::ports::{Memory, OperatorAnswer, Ports, Ticket};
use crate::primary::{self, Fenced, Primary};
use crate::role::Role;
use crate::secondary::{self, Secondary};
use crate::types::{Generation, GroupId, Now, PairId, SystemId, Time};
use std::collections::BTreeMap;

/// What the embedding has said of the groups' other parts, and the changes under way.
#[derive(Default)]
pub(super) struct Roles {
    /// What a group would be as a primary here.
    primaries: BTreeMap<GroupId, primary::GroupConfig>,
    /// What a group would be as a secondary here.
    secondaries: BTreeMap<GroupId, secondary::GroupConfig>,
    /// Primaries that become secondaries as soon as nothing is at their devices any more.
    demotions: BTreeMap<GroupId, Demotion>,
    /// The part that the embedding was told of last.
    told: BTreeMap<GroupId, (Role, Generation)>,
    /// Something may have changed.
    is_due: bool,
}

/// A primary that becomes a secondary.
struct Demotion {
    config: secondary::GroupConfig,
    generation: Generation,
    /// By a swap: up to when both sites hold the same.
    equal_at: Option<Time>,
    ticket: Option<Ticket>,
}

impl Roles {
    /// Something may have changed.
    pub(super) fn note_news(&mut self) {
        self.is_due = true;
    }
}

impl<M: Memory> Engine<M> {
    /// What the group is as a primary here, should it be taken over (`name` and `scope` are the group's own, whatever is
    /// given). Without it a taken-over group serves hosts, but copies to nobody, and a swap is refused. To be said again
    /// after each start.
    pub fn offer_primary(&mut self, group: GroupId, config: primary::GroupConfig) {
        self.roles.primaries.insert(group, config);
        self.secondary.set_reversible(group, true);
        self.roles.is_due = true;
    }

    /// Takes [`Engine::offer_primary`] back.
    pub fn withdraw_primary(&mut self, group: GroupId) {
        self.roles.primaries.remove(&group);
        self.secondary.set_reversible(group, false);
    }

    /// What the group is as a secondary here, should it be swapped: its journal. To be said again after each start.
    pub fn offer_secondary(&mut self, group: GroupId, config: secondary::GroupConfig) {
        self.roles.secondaries.insert(group, config);
        self.roles.is_due = true;
    }

    /// Makes a fenced primary the secondary of the generation that fenced it. What only this side has is given up, so the
    /// operator names the generation that ends here. Hosts are refused from here on; answered
    /// [`OperatorAnswer::Demoted`] when that is durable. The new primary's [`Engine::group_failback`] then brings this side
    /// up to date.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::WrongState`] unless the group is fenced;
    /// [`OperatorError::Invalid`] for another generation's number. The ticket is not answered then, nothing was changed.
    pub fn group_demote<P>(
        &mut self,
        now: Now,
        group: GroupId,
        config: secondary::GroupConfig,
        discard_generation: u64,
        ticket: Ticket,
        ports: &mut P,
    ) -> Result<(), OperatorError>
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let name = config.name.clone();
        let Some(fenced) = self.primary.fenced_by(group) else {
            return Err(OperatorError::NotFound(format!("group {name} is not a primary here")));
        };
        let (newer, ours) = match fenced {
            Fenced::By { newer, ours } => (newer, ours),
            Fenced::No => {
                return Err(OperatorError::WrongState(format!(
                    "group {name} is a primary here that no other site took over: it gives up nothing; use group_swap to \
                     exchange the sites, or take it over at the other site first"
                )));
            }
            Fenced::Split { other, ours } => {
                return Err(OperatorError::WrongState(format!(
                    "generation {} of group {name} was begun twice (split brain): {:016x} here, {:016x} at the other site; \
                     to give up what only this side has, name its id too: discard_generation {} and discard_id {:016x}",
                    ours.number, ours.id, other.id, ours.number, ours.id
                )));
            }
        };
        self.is_not_demoted(group, &name)?;
        if discard_generation != ours.number {
            return Err(OperatorError::Invalid(format!(
                "discard_generation {discard_generation} is given, group {name} is at generation {} here: writes that only \
                 this side has are lost for good when it follows generation {}; name generation {} to give them up",
                ours.number, newer.number, ours.number
            )));
        }
        self.begin_demotion(
            now,
            group,
            Demotion { config, generation: newer, equal_at: None, ticket: Some(ticket) },
            ports,
        );
        self.settle_roles(now, ports);
        Ok(())
    }

    /// Makes a primary in split brain with another generation of its own number the secondary of that one: as
    /// [`Engine::group_demote`], but the operator names the generation that ends here by its id as well.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::WrongState`] unless the group is in such a split;
    /// [`OperatorError::Invalid`] for another generation. The ticket is not answered then, nothing was changed.
    pub fn group_demote_in_split<P>(
        &mut self,
        now: Now,
        group: GroupId,
        config: secondary::GroupConfig,
        (discard_generation, discard_id): (u64, u64),
        ticket: Ticket,
        ports: &mut P,
    ) -> Result<(), OperatorError>
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let name = config.name.clone();
        let (other, ours) = match self.primary.fenced_by(group) {
            None => return Err(OperatorError::NotFound(format!("group {name} is not a primary here"))),
            Some(Fenced::Split { other, ours }) => (other, ours),
            Some(_) => {
                return Err(OperatorError::WrongState(format!(
                    "discard_id is given, and group {name} is not in split brain with a generation of its own number: \
                     leave it out"
                )));
            }
        };
        self.is_not_demoted(group, &name)?;
        if (discard_generation, discard_id) != (ours.number, ours.id) {
            return Err(OperatorError::Invalid(format!(
                "generation {discard_generation} ({discard_id:016x}) is given, group {name} is at {} ({:016x}) here, and at \
                 {} ({:016x}) at the other site: name the one of this site to give up what only this side has",
                ours.number, ours.id, other.number, other.id
            )));
        }
        let demotion = Demotion { config, generation: other, equal_at: None, ticket: Some(ticket) };
        self.begin_demotion(now, group, demotion, ports);
        self.settle_roles(now, ports);
        Ok(())
    }

    fn is_not_demoted(&self, group: GroupId, name: &str) -> Result<(), OperatorError> {
        match self.roles.demotions.contains_key(&group) {
            true => {
                Err(OperatorError::WrongState(format!("group {name} is becoming a secondary already; wait for that")))
            }
            false => Ok(()),
        }
    }

    /// Brings the other site up to date with a group that was taken over here: one resync, of what was thrown away there
    /// or here and of what was written since. [`primary::GroupStatus::copy`] shows how far it is.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::WrongState`] unless the group was taken over here (SSWS).
    pub fn group_failback<P>(&mut self, now: Now, group: GroupId, ports: &mut P) -> Result<(), OperatorError>
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        self.settle_roles(now, ports);
        if !self.primary.has_group(group) && self.secondary.promotion(group).is_some() {
            return Err(OperatorError::WrongState(
                "the group was taken over here, but it is not said how it is a primary here (link, remote): give it"
                    .into(),
            ));
        }
        let mut world = World { links: &mut self.links, ports };
        self.primary.failback_by_operator(now, group, &mut world)
    }

    /// Exchanges the two sites' parts with nothing lost. Answered [`OperatorAnswer::Swapped`] when this system is the
    /// secondary; with an error when hosts are served here as before.
    ///
    /// # Errors
    /// As [`primary::Primary::group_swap`]; and [`OperatorError::WrongState`] without a journal for this side
    /// ([`Engine::offer_secondary`]).
    pub fn group_swap<P>(
        &mut self,
        now: Now,
        group: GroupId,
        ticket: Ticket,
        ports: &mut P,
    ) -> Result<(), OperatorError>
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        if self.primary.has_group(group) && !self.roles.secondaries.contains_key(&group) {
            return Err(OperatorError::WrongState(
                "the group has no journal for this side, which it needs as a secondary: give one".into(),
            ));
        }
        let mut world = World { links: &mut self.links, ports };
        self.primary.group_swap(now, group, ticket, &mut world)
    }

    /// Ends a swap whose secondary is lost for good after it was told to be the primary: hosts are served here again, and
    /// the generation that the other site may have begun is given up, which the operator says by naming its number. That
    /// site must be off, or cut from its hosts. Answered [`OperatorAnswer::Abandoned`].
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::WrongState`] unless the group waits for the word of a secondary to
    /// which there is no session; [`OperatorError::Invalid`] for another generation's number. The ticket is not answered
    /// then, nothing was changed.
    pub fn group_swap_abandon<P>(
        &mut self,
        now: Now,
        group: GroupId,
        discard_generation: u64,
        ticket: Ticket,
        ports: &mut P,
    ) -> Result<(), OperatorError>
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let random = self.secondary.random();
        let mut world = World { links: &mut self.links, ports };
        self.primary.abandon_swap(now, group, discard_generation, random, ticket, &mut world)?;
        self.roles.is_due = true;
        Ok(())
    }

    /// This system's part in the group, as far as it is here.
    pub fn role(&self, group: GroupId) -> Option<Role> {
        if self.primary.has_group(group) {
            Some(Role::Primary)
        } else {
            self.secondary.groups().contains(&group).then_some(Role::Secondary)
        }
    }

    /// As part of which of its group's roles a pair is to be created here; `None` without the group. A group that was taken
    /// over here is its secondary's tombstone and a primary: pairs of before are attached through the first, all others are
    /// the second's.
    pub fn pair_role<P>(&mut self, now: Now, group: GroupId, pair: PairId, ports: &mut P) -> Option<Role>
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        self.settle_roles(now, ports);
        match (self.primary.has_group(group), self.secondary.standing(group)) {
            (true, Some((_, pairs))) if pairs.contains(&pair) && !self.primary.has_pair(pair) => Some(Role::Secondary),
            (true, _) => Some(Role::Primary),
            (false, Some(_)) => Some(Role::Secondary),
            (false, None) => None,
        }
    }

    /// Whether hosts' writes are taken here now.
    pub fn serves_hosts(&self, group: GroupId) -> bool {
        match self.primary.has_group(group) {
            true => self.primary.serves_hosts(group),
            false => self.secondary.promotion(group).is_some() && !self.secondary.is_given_up(group),
        }
    }

    fn begin_demotion<P>(&mut self, now: Now, group: GroupId, demotion: Demotion, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let mut world = World { links: &mut self.links, ports };
        self.primary.retire(now, group, &mut world);
        self.roles.demotions.insert(group, demotion);
        self.roles.is_due = true;
    }

    /// Whether [`Engine::settle_roles`] has something to look at.
    pub(super) fn has_role_news(&mut self) -> bool {
        self.roles.is_due |= self.secondary.take_role_news();
        self.roles.is_due || !self.roles.demotions.is_empty()
    }

    /// A message that may end a step.
    pub(super) fn is_role_message(message: &Message) -> bool {
        matches!(message, Message::HandedOver { .. } | Message::CopyDone { .. } | Message::Fenced { .. })
    }

    /// Moves groups whose part has changed from one machine to the other.
    pub(super) fn settle_roles<P>(&mut self, now: Now, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        self.roles.is_due = false;
        for id in self.secondary.groups() {
            self.secondary.set_reversible(id, self.roles.primaries.contains_key(&id));
            if self.secondary.follows(id) {
                let told = self.roles.told.get(&id).map(|(role, _)| *role);
                // The first look after a start: what a crash left of a primary goes.
                if self.primary.has_group(id) || told != Some(Role::Secondary) {
                    self.end_primary(id, ports);
                }
            } else {
                self.promote(now, id, ports);
            }
        }
        for (id, generation, end) in self.primary.given_away() {
            // Without a journal hosts wait: the embedding will give it.
            let Some(config) = self.roles.secondaries.get(&id).cloned() else { continue };
            let ticket = self.primary.take_swap_ticket(id);
            self.begin_demotion(now, id, Demotion { config, generation, equal_at: Some(end), ticket }, ports);
        }
        for id in self.roles.demotions.keys().copied().collect::<Vec<_>>() {
            self.demote(now, id, ports);
        }
        for id in self.primary.groups() {
            let generation = self.primary.generation(id);
            if let Some(generation) = generation.filter(|generation| generation.number > 0) {
                self.tell_role(id, Role::Primary, generation, ports);
            }
        }
    }

    /// Takes up as a primary what was taken over.
    fn promote<P>(&mut self, now: Now, id: GroupId, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        if self.roles.demotions.contains_key(&id) {
            return;
        }
        let Some(promotion) = self.secondary.promotion(id) else { return };
        let Some(config) = self.roles.primaries.get(&id) else { return };
        let mut world = World { links: &mut self.links, ports };
        if let Err(error) = self.primary.adopt(now, &promotion, config, &mut world) {
            // Hosts of its pairs go on through the secondary, where their writes make it copy everything later.
            return ports.log(format_args!("group {}: cannot be taken up as a primary here: {error}", promotion.name));
        }
        // So that it can be swapped back.
        if let Some(config) = self.secondary.config_of(id) {
            self.roles.secondaries.entry(id).or_insert(config);
        }
        if self.primary.is_whole(id) {
            self.secondary.forget_discarded(now, id, &mut world);
        }
    }

    /// Makes a retired primary a secondary, once nothing is at its devices.
    fn demote<P>(&mut self, now: Now, id: GroupId, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(demotion) = self.roles.demotions.get(&id) else { return };
        let Some(former) = self.primary.former(id, demotion.generation, demotion.equal_at) else { return };
        let generation = demotion.generation;
        let answer = match demotion.equal_at {
            Some(_) => OperatorAnswer::Swapped { generation },
            None => OperatorAnswer::Demoted { generation },
        };
        let tickets: Vec<_> = demotion.ticket.iter().map(|ticket| (*ticket, answer.clone())).collect();
        let config = demotion.config.clone();
        let mut world = World { links: &mut self.links, ports };
        match self.secondary.follow(now, config, &former, tickets, &mut world) {
            Ok(_) => {
                let demotion = self.roles.demotions.remove(&id);
                // So that it can be taken over, or swapped back.
                if let Some(config) = self.primary.config_of(id) {
                    self.roles.primaries.insert(id, config);
                }
                if let Some(demotion) = demotion {
                    self.roles.secondaries.insert(id, demotion.config);
                }
            }
            Err(error) => {
                let Some(demotion) = self.roles.demotions.remove(&id) else { return };
                ports.log(format_args!("group {} cannot become a secondary here: {error}", demotion.config.name));
                if let Some(ticket) = demotion.ticket {
                    ports.answer_operator(ticket, Err(error));
                }
                // After a swap there is nobody to ask: hosts wait until the embedding gives a journal that fits.
                self.roles.secondaries.remove(&id);
                self.primary.unretire(id);
            }
        }
    }

    /// A secondary of the group is here, durably: nothing of its primary stays.
    fn end_primary<P>(&mut self, id: GroupId, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some((generation, pairs)) = self.secondary.standing(id) else { return };
        self.secondary.set_reversible(id, self.roles.primaries.contains_key(&id));
        let mut world = World { links: &mut self.links, ports };
        self.primary.forget_group(id, &pairs, &mut world);
        assert!(!self.primary.has_group(id), "a primary and a secondary of one group");
        self.tell_role(id, Role::Secondary, generation, ports);
    }

    fn tell_role<P>(&mut self, id: GroupId, role: Role, generation: Generation, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        if self.roles.told.insert(id, (role, generation)) != Some((role, generation)) {
            ports.role_changed(id, role, generation);
        }
    }
}

/// What a primary here says to another one of its group, at its own remote system, that speaks as if this were the secondary
/// of its generation: that it is fenced, if this side has gone on without that generation. `None`: the secondary's record
/// here speaks for the group.
pub(super) fn answer_to_primary<M: Memory>(
    primary: &Primary<M>,
    secondary: &Secondary<M::Buf, M::Shared>,
    from: SystemId,
    message: &Message,
) -> Option<Message> {
    let (group, theirs) = match message {
        Message::OpenStream(open) => (open.group, Some(open.generation)),
        Message::GroupSuspended { group, .. } => (*group, None),
        _ => return None,
    };
    let ours = primary.rules(group, from)?;
    let is_spoken_for = secondary.standing(group).is_some_and(|(generation, _)| generation == ours);
    let is_older = theirs.is_none_or(|theirs| theirs != ours && (1..=ours.number).contains(&theirs.number));
    (is_older && !is_spoken_for).then_some(Message::Fenced { group, generation: ours })
}
