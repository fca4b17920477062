//! What a taken-over group hands to the primary that it becomes.
//!
//! The secondary's record stays, as a tombstone: whoever comes with an older generation is told that it is fenced.

use super::group::{Group, Phase};
use super::io::Io;
use super::meta::Life;
use super::{Downlink, GroupConfig, Secondary};
use crate::role::{PromotedPair, Promotion};
use crate::types::{Generation, GroupId, Now, PairId, Scope};

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    /// Whether a group's part may have changed, or a pair's volume been attached, since this was asked last.
    pub(crate) fn take_role_news(&mut self) -> bool {
        std::mem::take(&mut self.role_news)
    }

    /// What the group hands over, if it was taken over and its journal is closed, durably.
    pub(crate) fn promotion(&self, id: GroupId) -> Option<Promotion> {
        let group = self.groups.get(&id).filter(|group| matches!(group.phase, Phase::TakenOver))?;
        let certificate = group.meta.certificate.as_ref()?;
        debug_assert_eq!(group.meta.life, Life::TakenOver);
        let whole = group.meta.pairs.iter().filter(|pair| !certificate.never_consistent.contains(&pair.id));
        let known = whole.clone().map(|pair| (pair.id, pair.name.clone())).collect();
        let attached = whole.filter_map(|pair| Some((pair, group.volumes.get(&pair.id)?.0)));
        let pairs = attached.map(|(pair, volume)| PromotedPair {
            pair: pair.id,
            name: pair.name.clone(),
            volume,
            geometry: pair.geometry,
            volatile: false,
            discarded: group.meta.discarded.iter().filter(|(id, _)| *id == pair.id).map(|(_, it)| *it).collect(),
            unmarked: group.has_unmarked,
        });
        Some(Promotion {
            group: id,
            name: group.meta.name.clone(),
            scope: group.meta.streams.first().map_or(Scope::Group, |stream| stream.scope),
            generation: group.meta.generation,
            is_swap: group.handed.is_some_and(|handed| handed.generation == group.meta.generation),
            greatest_time: group.meta.greatest_time.max(group.limit),
            known,
            pairs: pairs.collect(),
        })
    }

    /// Whether the group follows a primary, durably or soon: then no primary of it may be here.
    pub(crate) fn follows(&self, id: GroupId) -> bool {
        let is_open = |group: &Group<S>| !matches!(group.meta.life, Life::Sealed { .. } | Life::TakenOver);
        self.groups.get(&id).is_some_and(|group| is_open(group) && !group.is_beginning)
    }

    /// Whether its old primary goes on without the generation that was begun here.
    pub(crate) fn is_given_up(&self, id: GroupId) -> bool {
        self.groups.get(&id).is_some_and(|group| group.is_given_up)
    }

    /// As it was created; `None` without a journal.
    pub(crate) fn config_of(&self, id: GroupId) -> Option<GroupConfig> {
        self.groups.get(&id).filter(|group| !group.has_no_journal).map(|group| group.config.clone())
    }

    /// The group's generation and its pairs.
    pub(crate) fn standing(&self, id: GroupId) -> Option<(Generation, Vec<PairId>)> {
        let meta = &self.groups.get(&id)?.meta;
        Some((meta.generation, meta.pairs.iter().map(|pair| pair.id).collect()))
    }

    /// The group can become a primary here: the embedding has said how.
    pub(crate) fn set_reversible(&mut self, id: GroupId, is_reversible: bool) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.is_reversible = is_reversible;
        }
    }

    /// The old primary holds again what is here, so nothing of what was thrown away is left there.
    pub(crate) fn forget_discarded(&mut self, now: Now, id: GroupId, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        self.act(now, id, ports, |group, io: &mut Io<'_, _>, _| {
            if group.meta.life == Life::TakenOver && !group.meta.discarded.is_empty() {
                group.meta.discarded.clear();
                group.persist(io, Vec::new());
            }
        });
    }
}
