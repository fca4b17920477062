//! A pair grows: the secondary's side of [`crate::primary`]'s resize.
//!
//! The new size is durable before it is answered; nothing is sent for the new blocks before that. Hosts see it when the
//! primary says that both sides hold the same there, or after a takeover; what they see until then is durable too. A primary that lost its way in
//! between joins with the size that it has, and this side's follows.

use super::group::{After, Group};
use super::peers::Refused;
use super::{Downlink, Secondary};
use crate::message::{JoinPair, Message, Refusal, Subject};
use crate::types::{Extent, GroupId, LinkId, Now, PairId, SystemId};
use std::cmp::Ordering;

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    /// The primary wants a pair to have so many blocks, or (`is_done`) shows so many to hosts.
    #[expect(clippy::too_many_arguments, reason = "a message's fields")]
    pub(super) fn resize_pair(
        &mut self,
        now: Now,
        link: LinkId,
        from: SystemId,
        (group, pair): (GroupId, PairId),
        blocks: u64,
        is_done: bool,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let Some(owned) = self.owned(from, group) else { return };
        if is_done {
            let grown = owned.meta.pair_mut(pair).filter(|pair| pair.geometry.blocks == blocks);
            if grown.is_some_and(|pair| pair.shown_blocks.take().is_some()) {
                ports.volume_changed(pair);
                // A start that does not find it hears it again in the next session.
                self.act(now, group, ports, |group, io, _| group.persist(io, Vec::new()));
            }
            return;
        }
        match owned.grow(pair, blocks, ports) {
            Err((refusal, text)) => {
                ports.send_message(link, Message::Refused { group, subject: Subject::Pair(pair), refusal, text });
            }
            Ok(()) => self.act(now, group, ports, |group, io, _| {
                group.persist(io, vec![After::Send(link, Message::Resized { group: group.id, pair, blocks })]);
            }),
        }
    }
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// Gives the pair this size, if its volume has it.
    fn grow(&mut self, id: PairId, blocks: u64, ports: &impl Downlink) -> Result<(), Refused> {
        let name = &self.meta.name;
        if !self.is_receiving() || self.meta.unit.is_some() || self.hold.is_some() {
            let text = format!("group \"{name}\" of the secondary is not in PAIR state");
            return Err((Refusal::NotYet, text));
        }
        if self.view_gate.is_some() {
            let text =
                format!("group \"{name}\" is under test at the secondary: end that there with group_test_stop first");
            return Err((Refusal::NotYet, text));
        }
        let Some(((volume, volume_name), pair)) = self.volumes.get(&id).zip(self.meta.pair(id)) else {
            let text = format!("the secondary has no volume for the pair in group \"{name}\": create it there again");
            return Err((Refusal::NotYet, text));
        };
        let has = pair.geometry;
        let least = pair.shown_blocks.unwrap_or(has.blocks);
        if blocks < least {
            let text = format!(
                "pair \"{}\" has {least} blocks at the secondary, {blocks} are asked for: a pair only grows",
                pair.name
            );
            return Err((Refusal::Never, text));
        }
        let there = ports.volume_blocks(*volume).unwrap_or(has.blocks);
        if there < blocks {
            let text = format!(
                "volume \"{volume_name}\" at the secondary has {there} blocks of {} bytes, {blocks} are asked for: make its \
                 file or device larger, then bdev_uring_rescan there, then try again",
                has.block_bytes
            );
            return Err((Refusal::Never, text));
        }
        if let Some(pair) = self.meta.pair_mut(id) {
            if blocks > has.blocks {
                pair.shown_blocks.get_or_insert(has.blocks);
            }
            pair.geometry.blocks = blocks;
        }
        Ok(())
    }

    /// A pair that was established before joins with another size: a resize was under way when one side lost its way. Gives
    /// this side the primary's size, and answers which blocks are new here.
    pub(super) fn follow_size(&mut self, join: &JoinPair, ports: &impl Downlink) -> Option<Vec<Extent>> {
        let (volume, _) = self.volumes.get(&join.pair)?;
        let there = ports.volume_blocks(*volume);
        let is_unit = self.meta.unit.is_some();
        let pair = self.meta.pair_mut(join.pair)?;
        let before = pair.geometry.blocks;
        let may_follow = match join.blocks.cmp(&before) {
            Ordering::Equal => return Some(Vec::new()),
            // Nothing was ever sent for what the primary does not have.
            Ordering::Less => pair.stream.is_some(),
            Ordering::Greater => is_unit && there.is_some_and(|there| there >= join.blocks),
        };
        if !may_follow || pair.geometry.block_bytes != join.block_bytes {
            return None;
        }
        pair.geometry.blocks = join.blocks;
        pair.shown_blocks = None;
        let mut new = Vec::new();
        let mut lba = before;
        while lba < join.blocks {
            let blocks = u32::try_from(join.blocks - lba).unwrap_or(u32::MAX);
            new.push(Extent { lba, blocks });
            lba += u64::from(blocks);
        }
        Some(new)
    }
}
