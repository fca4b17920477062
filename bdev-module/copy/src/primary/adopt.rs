//! A group that was taken over here becomes a primary group.
//!
//! Its records are written as an earlier process of a primary would have left them, and then it is taken up from these, as
//! after a restart: there is one way for both. Until the secondary's record says "taken over", none of this is done; from
//! then on it is done again after every start, and changes nothing the second time.

use super::create::recalled;
use super::meta::{GroupRecord, PairRecord, group_key, pair_key};
use super::{GroupConfig, PairConfig, Primary, Up, Uplink, Wait, handover, marks};
use crate::dirty::{self, DirtyMap};
use crate::engine::OperatorError;
use crate::ports::Memory;
use crate::role::{PromotedPair, Promotion};
use crate::takeover::volume_uuid;
use crate::types::{Extent, Generation, Geometry, GroupId, Initial, Now};

impl<M: Memory> Primary<M> {
    /// Takes a group up that was taken over here, with those of its pairs that are not known yet. Their volumes serve hosts
    /// from here on, marked; SSWS until the old primary follows as a secondary.
    ///
    /// # Errors
    /// As at a creation; what could be taken up stays.
    pub(crate) fn adopt<U>(
        &mut self,
        now: Now,
        promotion: &Promotion,
        config: &GroupConfig,
        ports: &mut U,
    ) -> Result<(), OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        // Stamps of the new history are above all of the old one.
        self.stamper.raise(promotion.greatest_time);
        let id = promotion.group;
        if let Some(group) = self.groups.get(&id) {
            assert!(
                is_of(group.generation, promotion.generation),
                "one group, two histories: primary of {}, taken over as {}",
                group.generation.number,
                promotion.generation.number
            );
        } else {
            self.adopt_group(now, promotion, config, ports)?;
        }
        for pair in promotion.pairs.iter().filter(|pair| !self.has_pair(pair.pair)).collect::<Vec<_>>() {
            // Hosts ride through a swap only: else the volume is another disk to them, at both sites.
            if !promotion.is_swap {
                self.set_identity(pair.pair, volume_uuid(promotion.generation, pair.pair), ports);
            }
            self.adopt_pair(now, id, pair, promotion.generation, ports)?;
        }
        Ok(())
    }

    fn adopt_group(
        &mut self,
        now: Now,
        promotion: &Promotion,
        config: &GroupConfig,
        ports: &mut impl Up<M>,
    ) -> Result<(), OperatorError> {
        let (id, generation) = (promotion.group, promotion.generation);
        let known = recalled::<M, _>(&group_key(id), GroupRecord::decode, ports)?;
        let scope = known.as_ref().filter(|known| is_of(known.generation, generation)).map(|known| known.scope);
        if scope.is_none() {
            let record = GroupRecord {
                scope: promotion.scope,
                remote: config.remote,
                generation,
                suspension: Some(handover::taken_over(promotion.is_swap)),
                pairs: promotion.known.clone(),
                ..GroupRecord::new(promotion.scope, config.remote)
            };
            self.keep(&group_key(id), &record.encode(), Wait::Note, ports);
        }
        let config =
            GroupConfig { name: promotion.name.clone(), scope: scope.unwrap_or(promotion.scope), ..config.clone() };
        self.create_group(now, config, ports)?;
        let name = &promotion.name;
        ports.log(format_args!("group {name}: this system is its primary, generation {}", generation.number));
        Ok(())
    }

    fn adopt_pair(
        &mut self,
        now: Now,
        group: GroupId,
        promoted: &PromotedPair,
        generation: Generation,
        ports: &mut impl Up<M>,
    ) -> Result<(), OperatorError> {
        let (id, geometry) = (promoted.pair, promoted.geometry);
        debug_assert!(self.groups.get(&group).is_some_and(|group| is_of(group.generation, generation)));
        let known = recalled::<M, _>(&pair_key(id), PairRecord::decode, ports)?;
        let record = known.clone().unwrap_or_else(|| PairRecord {
            geometry,
            region_bytes: dirty::region_bytes(geometry),
            suspended: None,
            is_copying: false,
            keeps_image: false,
            shown_blocks: None,
        });
        let mut map = match &known {
            Some(_) => marks::load::<M>(id, geometry, (record.region_bytes, self.config.mark_ahead_bytes), ports)?,
            // What an earlier pair of this name left behind means nothing; the values below take its place.
            None => DirtyMap::new(geometry, record.region_bytes, self.config.mark_ahead_bytes),
        };
        if known.is_none() {
            for key in marks::kept_chunks::<M>(id, &map, ports) {
                self.keep(&key, &[], Wait::Note, ports);
            }
        }
        if promoted.unmarked && known.is_none() {
            map.miss_everything(true);
        }
        for extent in promoted.discarded.iter().filter_map(|extent| clipped(*extent, geometry)) {
            map.miss(extent);
        }
        // The marks first: a start that finds the pair's record finds them.
        for (chunk, value) in map.ask().into_iter().flat_map(|(_, chunks)| chunks) {
            self.keep(&dirty::chunk_key(id, chunk), &value, Wait::Note, ports);
        }
        if known.is_none() {
            self.keep(&pair_key(id), &record.encode(), Wait::Note, ports);
        }
        let config = PairConfig {
            group,
            name: promoted.name.clone(),
            volume: promoted.volume,
            geometry,
            remote_volume: String::new(),
            initial: Initial::Identical,
            volatile: promoted.volatile,
        };
        self.take_up(now, id, config, record, ports)?;
        self.due = crate::types::Mono(0);
        Ok(())
    }
}

/// Whether a primary of this generation is what the takeover began: a swap that was abandoned since made it a later one.
fn is_of(generation: Generation, taken: Generation) -> bool {
    generation == taken || generation.succeeds(taken)
}

/// The part of the extent that lies in the volume.
fn clipped(extent: Extent, geometry: Geometry) -> Option<Extent> {
    let end = extent.end().min(geometry.blocks);
    let blocks = u32::try_from(end.checked_sub(extent.lba)?).ok().filter(|blocks| *blocks > 0)?;
    Some(Extent { lba: extent.lba, blocks })
}
