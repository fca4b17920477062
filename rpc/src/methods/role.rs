//! Groups that change sides: failback after a takeover, and planned swap.

use serde::{Deserialize, Serialize};

use super::group::Role;

/// `group_failback`, after a takeover, at both systems and in this order.
///
/// At the old primary, which is fenced, with `journal` and `discard_generation`: it becomes the secondary of the newer
/// generation, and writes that only it has are given up. At the new primary, with neither: what differs is copied to the
/// other side, whose last image stays until all of it is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupFailback {
    /// The group.
    pub name: String,
    /// At the old primary: the device for its journal, which the group claims; default the one that `group_create` named.
    pub journal: Option<String>,
    /// At the old primary: the number of the generation that ends there, as its `group_get` shows it.
    pub discard_generation: Option<u64>,
    /// In split brain, with `discard_generation`: the id of the generation that ends there, hex, because both sites' have
    /// that number.
    pub discard_id: Option<String>,
}

impl GroupFailback {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.discard_id.is_some() && self.discard_generation.is_none() {
            return Err("`discard_id` goes with `discard_generation`: name both, as group_get shows them".to_owned());
        }
        if self.discard_id.as_ref().is_some_and(|id| u64::from_str_radix(id, 16).is_err()) {
            return Err("`discard_id` is an id of up to 16 hexadecimal digits, as group_get shows it".to_owned());
        }
        if self.journal.is_some() && self.discard_generation.is_none() {
            return Err(
                "`discard_generation` is missing: at the old primary, name the generation whose writes are given up \
                        there (group_get shows it); at the new primary leave out `journal` too"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// `group_swap`, at the primary: the two systems exchange their sides with nothing lost. Hosts wait, then find their
/// volumes by their other path.
///
/// With `abandon`, at the old primary, while it waits for the word of a secondary that is lost for good: hosts are served
/// here again. The other system must be off, or cut from its hosts; what they wrote there since is given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSwap {
    /// The group.
    pub name: String,
    /// The device for this side's journal, which the group claims; default the one that it has.
    pub journal: Option<String>,
    /// Give a swap up whose secondary was told of it and does not come back; default `false`.
    pub abandon: Option<bool>,
    /// With `abandon`: the number of the generation that the other site may have begun, one above this side's.
    pub discard_generation: Option<u64>,
}

impl GroupSwap {
    pub(super) fn check(&self) -> Result<(), String> {
        match (self.abandon == Some(true), self.discard_generation, &self.journal) {
            (true, None, _) => Err("`discard_generation` is missing: name the generation that the other site may have \
                                    begun, one above the one that group_get shows here; what hosts wrote there is given up"
                .to_owned()),
            (true, _, Some(_)) => Err("`journal` is given with `abandon`: this side stays primary".to_owned()),
            (false, Some(_), _) => Err("`discard_generation` is for `abandon`: a swap gives nothing up".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Which side a system is on, since when a call has changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleInfo {
    /// Its side now.
    pub role: Role,
    /// The number of the generation that it follows, or began.
    pub generation: u64,
}
