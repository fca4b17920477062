//! What the connections of one core share: the configuration snapshot and the controller ids this core hands out.
//!
//! # Controllers across cores
//!
//! A controller lives in the machine of its admin connection and nowhere else. Its id says which core that is: core `i` of
//! `n` hands out only ids with `id % n == i`. An I/O queue's Connect names the controller by id, so the machine that
//! received it asks [`Peer::Controller`], the reactor carries the question to core `id % n` over its ring, and there
//! [`Core::connection_of`] names the connection to deliver it to. Nothing is shared, nothing is locked:
//!
//! ```text
//!  I/O connection (core 1)                          admin connection (core 0) owns the controller
//!  Connect capsule  --Join{qid,host..}-->           checks host, subsystem, CC.EN, QID; notes the queue
//!  answers the host <--JoinAnswer------             (a QID still held by a dying socket is waited for)
//!        ...
//!  closes, drains   <--CloseQueue-------            keep-alive expired, CC.EN cleared, shutdown, disconnect
//!  drained          --QueueGone--------->           the QID is free; with the last one the controller may say "reset done"
//! ```
//!
//! Messages between two cores keep their order (the rings do), hence a `QueueGone` never overtakes its `Join`. A `Join` to a
//! controller that is gone is answered by the reactor with [`PeerMessage::undelivered`].

use std::{collections::HashMap, sync::Arc};

use super::{config::TargetConfig, connect::ConnectRefusal};
use crate::nqn::Nqn;

/// The greatest controller id; 0xFFF0 and above are kept by the standard (Base 2.0, 3.1.1).
pub const CNTLID_MAX: u16 = 0xFFEF;

/// A controller's number, unique in the whole target while the controller lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ControllerId(pub u16);

/// Names a connection in the whole target. The reactor chooses it, must never use it twice, and can tell its core from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// To the admin connection of this controller; [`Core::core_of`] names its core.
    Controller(ControllerId),
    /// To this connection; dropped when it is gone.
    Connection(ConnectionId),
}

/// What connections tell each other. Delivered as [`super::Event::Peer`], in order between any two cores.
#[derive(Clone, Debug)]
pub struct PeerMessage(pub(crate) Message);

#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// An I/O queue wants to belong to the controller.
    Join(Box<Join>),
    /// The answer to it.
    JoinAnswer(Result<(), ConnectRefusal>),
    /// The controller wants its queue to end.
    CloseQueue,
    /// The queue's socket is closed and none of its commands is with a block device any more.
    QueueGone { qid: u16, from: ConnectionId },
}

#[derive(Clone, Debug)]
pub(crate) struct Join {
    pub(crate) from: ConnectionId,
    pub(crate) qid: u16,
    pub(crate) subsystem: Nqn,
    pub(crate) host: Nqn,
    pub(crate) host_id: [u8; 16],
}

impl PeerMessage {
    /// The answer that the reactor sends when [`Core::connection_of`] knows no such controller; None when nobody waits for
    /// one.
    pub fn undelivered(&self) -> Option<(Peer, PeerMessage)> {
        match &self.0 {
            Message::Join(join) => {
                let refusal = ConnectRefusal::UnknownController;
                Some((Peer::Connection(join.from), PeerMessage(Message::JoinAnswer(Err(refusal)))))
            }
            Message::JoinAnswer(_) | Message::CloseQueue | Message::QueueGone { .. } => None,
        }
    }
}

/// One core's share of the target. The reactor owns it and lends it through [`super::Ports::core`].
#[derive(Debug)]
pub struct Core {
    index: u16,
    cores: u16,
    config: Arc<TargetConfig>,
    controllers: HashMap<u16, ConnectionId>,
    last: u16,
}

impl Core {
    /// Core `index` of `cores`, which must be the same number on all of them.
    ///
    /// # Panics
    /// When `index` is not below `cores`: the caller's own mistake.
    pub fn new(index: u16, cores: u16, config: Arc<TargetConfig>) -> Self {
        assert!(index < cores, "core {index} of {cores}");
        Self { index, cores, config, controllers: HashMap::new(), last: 0 }
    }

    /// The configuration in force here.
    pub fn config(&self) -> &Arc<TargetConfig> {
        &self.config
    }

    /// Swaps the configuration. The reactor then hands [`super::Event::ConfigChanged`] to each of its connections.
    pub fn set_config(&mut self, config: Arc<TargetConfig>) {
        self.config = config;
    }

    /// The core where this controller lives, if it lives.
    pub fn core_of(&self, controller: ControllerId) -> u16 {
        controller.0 % self.cores
    }

    /// The admin connection of a controller of this core.
    pub fn connection_of(&self, controller: ControllerId) -> Option<ConnectionId> {
        self.controllers.get(&controller.0).copied()
    }

    /// The controllers of this core.
    pub fn controllers(&self) -> impl Iterator<Item = (ControllerId, ConnectionId)> + '_ {
        self.controllers.iter().map(|(&id, &connection)| (ControllerId(id), connection))
    }

    /// Hands out an id of this core within `min..=max`. Ids go round before they are used again, so that a late message
    /// for a dead controller rarely meets its successor.
    pub(crate) fn allocate(&mut self, min: u16, max: u16, owner: ConnectionId) -> Option<ControllerId> {
        let (min, max) = (min.max(1), max.min(CNTLID_MAX));
        let ours = |id: &u16| id % self.cores == self.index;
        let after = self.last.saturating_add(1).max(min);
        let id = (after..=max).chain(min..after.min(max.saturating_add(1))).filter(ours);
        let id = { id }.find(|id| !self.controllers.contains_key(id))?;
        self.last = id;
        self.controllers.insert(id, owner);
        Some(ControllerId(id))
    }

    pub(crate) fn release(&mut self, controller: ControllerId, owner: ConnectionId) {
        if self.controllers.get(&controller.0) == Some(&owner) {
            self.controllers.remove(&controller.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_its_core_and_is_not_reused_at_once() {
        let mut core = Core::new(1, 3, Arc::default());
        let owner = ConnectionId(9);
        let first = core.allocate(1, 10, owner).unwrap();
        core.release(first, owner);
        let ids: Vec<u16> = std::iter::from_fn(|| core.allocate(1, 10, owner)).map(|id| id.0).collect();
        assert_eq!((first.0, ids), (1, vec![4, 7, 10, 1]));
        assert!(core.controllers().all(|(id, _)| core.core_of(id) == 1));
    }

    #[test]
    fn a_range_without_an_id_of_this_core_gives_none() {
        let mut core = Core::new(1, 4, Arc::default());
        assert_eq!(core.allocate(2, 4, ConnectionId(1)), None);
    }
}
