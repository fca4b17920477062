//! What the secondary says of its devices that fail: shown to the operator here, who sees a lag that only grows.

use super::{Primary, Up};
use crate::ports::Memory;
use crate::types::{GroupId, Mono, Now, PairId};

/// The secondary says it again every five seconds; what it says no more, this long after, is not known to hold.
const HEARD_NS: u64 = 15_000_000_000;

/// A device of the secondary fails.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    heard: Mono,
    pair: Option<PairId>,
    text: String,
}

impl<M: Memory> Primary<M> {
    pub(super) fn take_trouble(
        &mut self,
        now: Now,
        id: GroupId,
        pair: Option<PairId>,
        text: String,
        ports: &mut impl Up<M>,
    ) {
        let Some(group) = self.groups.get(&id) else { return };
        let known = self.troubles.get(&id).is_some_and(|trouble| trouble.text == text && trouble.pair == pair);
        let name = &group.config.name;
        if text.is_empty() {
            if self.troubles.remove(&id).is_some() {
                ports.log(format_args!("group {name}: the secondary's devices work again"));
            }
            return;
        }
        if !known {
            ports.log(format_args!("group {name}: the secondary says: {text}"));
        }
        self.troubles.insert(id, Trouble { heard: now.mono, pair, text });
    }

    /// What the secondary said lately of a device that fails, if it concerns this pair (`None`: any of the group).
    pub(super) fn trouble(&self, now: Now, group: GroupId, pair: Option<PairId>) -> Option<String> {
        let trouble = self.troubles.get(&group)?;
        let is_fresh = now.mono.since_ns(trouble.heard) <= HEARD_NS;
        let concerns = trouble.pair.is_none() || pair.is_none() || trouble.pair == pair;
        (is_fresh && concerns).then(|| format!("at the secondary: {}", trouble.text))
    }
}
