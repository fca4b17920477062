//! A primary that was here becomes the secondary of a newer generation.
//!
//! One durable write decides ([`GroupMeta`] of the newer generation, its pairs known by name and size); the primary's
//! records are emptied after it. Before that write nothing has changed, after it every start finds a secondary.
//!
//! What this side may hold that the other does not (its dirty map) becomes [`GroupMeta::discarded`], which the new primary
//! is told ([`crate::message::Message::Differs`]) before its resync. Until that resync's unit has committed, no pair here
//! is an image of the newer generation, so none can be taken over; after a swap all are, up to the swap's end.

use super::failover::merged;
use super::group::{After, Group, Phase};
use super::io::Io;
use super::meta::{Checkpoint, GroupMeta, Image, Life, PairMeta, Share, key_of};
use super::{Downlink, GroupConfig, Secondary};
use crate::engine::OperatorError;
use crate::journal::format::{self, Super};
use crate::message::Content;
use crate::ports::{OperatorAnswer, Ticket};
use crate::role::Former;
use crate::types::{GroupId, Mono, Now, Seq, Time};

/// Where the id of a journal is kept that this system's own earlier part in the group has left on the device: it may be
/// formatted anew.
fn earlier_key(group: GroupId) -> String {
    format!("secondary/earlier/{:016x}", group.0)
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    /// Makes this system the group's secondary. `tickets` are answered when that is durable; whoever looks then finds that
    /// [`Secondary::follows`].
    ///
    /// # Errors
    /// [`OperatorError::Invalid`] journal, [`OperatorError::WrongState`] while an earlier part of this system in the group is
    /// still at work on its journal. Nothing was changed then.
    pub(crate) fn follow(
        &mut self,
        now: Now,
        config: GroupConfig,
        former: &Former,
        tickets: Vec<(Ticket, OperatorAnswer)>,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<GroupId, OperatorError> {
        let id = GroupId::of_name(&config.name);
        self.check_journal(&config)?;
        if let Some(old) = self.groups.get(&id)
            && !matches!(old.phase, Phase::TakenOver | Phase::Failed(_))
        {
            return Err(OperatorError::WrongState(format!(
                "group \"{}\" is still at work on its journal: try again in a moment",
                config.name
            )));
        }
        let stored = ports.recall(&key_of(id)).filter(|value| !value.is_empty());
        let tombstone = stored.and_then(|value| GroupMeta::decode(&value).ok());
        if let Some(old) = &tombstone {
            assert!(
                matches!(old.life, Life::TakenOver),
                "a primary and a secondary of one group at one system: {:?}",
                old.life
            );
            let is_rival = old.generation.number == former.generation.number && old.generation != former.generation;
            assert!(old.generation.number < former.generation.number || is_rival, "never back to an older generation");
        }
        let mut meta = GroupMeta::new(&config.name, self.random());
        meta.generation = former.generation;
        meta.greatest_time = former.greatest_time;
        let equal_at = former.equal_at.unwrap_or(Time(0));
        meta.checkpoint = Checkpoint { limit: equal_at, ..meta.checkpoint };
        meta.proven = equal_at;
        if let Some(old) = tombstone {
            meta.greatest_time = meta.greatest_time.max(old.greatest_time);
            // Their epochs must never come again.
            meta.streams = old.streams;
            for stream in meta.streams.iter_mut() {
                (stream.closed, stream.announced) = (true, Seq(0));
                stream.seen.clear();
            }
            let earlier = old.journal_id.to_le_bytes();
            self.act_on_note(id, &earlier, ports);
        }
        let discarded = former.pairs.iter().flat_map(|pair| pair.marked.iter().map(|extent| (pair.pair, *extent)));
        meta.discarded = merged(discarded.collect());
        meta.pairs = former
            .pairs
            .iter()
            .map(|pair| PairMeta {
                id: pair.pair,
                name: pair.name.clone(),
                geometry: pair.geometry,
                shown_blocks: None,
                content: Content::Established,
                stream: None,
                touched: true,
                left: false,
                // An operator has given it up, or it is equal.
                overwritable: true,
                image: match former.equal_at {
                    Some(time) => Image::Whole(time),
                    None => Image::Copying(None),
                },
                share: if former.equal_at.is_some() { Share::None } else { Share::Everything },
            })
            .collect();
        self.detach(id);
        self.fence_told.retain(|(_, group)| *group != id);
        let mut group = Group::new(config, meta, now.mono, self.config);
        group.phase = Phase::Start { not_before: Mono(u64::MAX) };
        group.is_beginning = true;
        for pair in &former.pairs {
            group.volumes.insert(pair.pair, (pair.volume, pair.name.clone()));
            self.pairs.insert(pair.pair, id);
        }
        self.groups.insert(id, group);
        self.act(now, id, ports, |group, io: &mut Io<'_, _>, _| {
            let answers = tickets.into_iter().map(|(ticket, answer)| After::Answer(ticket, answer));
            group.persist(io, std::iter::once(After::Follows).chain(answers));
        });
        Ok(id)
    }

    /// Remembers which journal may be replaced, ahead of the record that needs it.
    fn act_on_note(&mut self, id: GroupId, value: &[u8], ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let token = self.tokens.issue(id, super::io::Op::Meta);
        ports.persist(&earlier_key(id), value, token);
    }
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// That this system follows a primary is durable: its journal may be formatted.
    pub(crate) fn follows_now<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        self.is_beginning = false;
        self.phase = Phase::Start { not_before: io.now.mono };
        io.ports.log(format_args!(
            "group \"{}\": this system is its secondary, generation {}",
            self.meta.name, self.meta.generation.number
        ));
    }

    /// Whether the journal on the device is this system's own, of its earlier part in this group.
    pub(crate) fn may_replace<P: Downlink<Shared = S>>(&self, io: &Io<'_, P>, superblock: &[u8]) -> bool {
        let Super::Journal { id, .. } = format::parse_super(superblock) else { return false };
        let earlier = io.ports.recall(&earlier_key(self.id));
        self.meta.life == Life::Formatting && earlier.is_some_and(|value| value == id.to_le_bytes())
    }

    /// Why no takeover is possible although the journal is open: the former primary has no image of this generation yet.
    pub(crate) fn follower_obstacle(&self) -> Option<String> {
        let has_image = self.meta.pairs.iter().any(|pair| !matches!(pair.image, Image::Copying(_)));
        let is_former =
            !self.meta.pairs.is_empty() && self.meta.pairs.iter().all(|pair| pair.content == Content::Established);
        (is_former && !has_image).then(|| {
            format!(
                "there is no consistent image of generation {} here yet: it comes with the first resync (group_failback at \
                 the new primary)",
                self.meta.generation.number
            )
        })
    }
}
