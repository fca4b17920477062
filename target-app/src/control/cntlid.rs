//! Which controller ids this system hands out by default.
//!
//! Hosts that reach a volume at both sites know it as one subsystem, whose controllers must all have ids of their own. So the
//! ids are cut into slots, and a system's slot follows from its key. Two systems that know each other's keys from their link
//! and find that they have the same slot both know which of them takes the next one: that with the greater key.

use super::{Control, State};
use longrun_copy::link::public_of;
use longrun_nvmf::target::CNTLID_MAX;

const SLOTS: u16 = 16;
const SLOT_IDS: u16 = 1 << 12;

/// The least and the greatest id of the system with this public key, which has links to systems with those.
fn range<'a>(own: &[u8; 32], peers: impl Iterator<Item = &'a [u8; 32]>) -> (u16, u16) {
    let slot = |key: &[u8; 32]| u16::from(key[0]) % SLOTS;
    let before = peers.filter(|peer| slot(peer) == slot(own) && *peer < own).count() as u16;
    let first = (slot(own).wrapping_add(before) % SLOTS) * SLOT_IDS;
    (first + 1, (first + (SLOT_IDS - 1)).min(CNTLID_MAX))
}

impl Control {
    pub(super) fn public_key(&self) -> [u8; 32] {
        public_of(&self.private_key)
    }
}

impl State {
    /// The ids that subsystems hand out if nothing else is said. `own`: this system's public key, for as long as there is
    /// no link, which may have one of its own.
    pub(super) fn cntlid_range(&self, own: &[u8; 32]) -> (u16, u16) {
        let own = self.links.values().next().map_or(own, |link| &link.public_key);
        let peers = self.links.values().filter(|link| link.public_key == *own).filter_map(|link| link.remote_key());
        range(own, peers)
    }

    /// Subsystems that have the default ids from before a link was made or deleted get those of now; controllers that live
    /// keep theirs. True if there are any.
    pub(super) fn move_cntlids(&mut self, before: (u16, u16), now: (u16, u16)) -> bool {
        let meant = |min: u16, max: u16| before != now && (min, max) == before;
        let subsystems = self.target.subsystems.iter();
        let nqns: Vec<_> = subsystems
            .filter(|(_, subsystem)| meant(subsystem.cntlid_min, subsystem.cntlid_max))
            .map(|(nqn, _)| nqn.clone())
            .collect();
        for nqn in &nqns {
            self.target.edit(nqn, |subsystem| (subsystem.cntlid_min, subsystem.cntlid_max) = now);
        }
        !nqns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_systems_that_know_each_other_never_hand_out_the_same_id() {
        let key = |first: u8, last: u8| {
            let mut key = [0; 32];
            (key[0], key[31]) = (first, last);
            key
        };
        for a in 0..=255 {
            for b in 0..=255 {
                let (a, b) = (key(a, 1), key(b, 2));
                let ((a_min, a_max), (b_min, b_max)) = (range(&a, [b].iter()), range(&b, [a].iter()));
                assert!(a_max < b_min || b_max < a_min, "{a:?} {b:?}");
                assert!(a_min >= 1 && a_max <= CNTLID_MAX && a_max - a_min > 4000, "{a_min} {a_max}");
            }
        }
    }
}
