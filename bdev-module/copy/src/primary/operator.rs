//! What operators ask of a group that exists: suspend, resync, bookmark, verify.

use super::{Primary, Up};
use crate::engine::OperatorError;
use crate::ports::{Memory, Ticket};
use crate::types::{GroupId, Now, PairId, Time};

impl<M: Memory> Primary<M> {
    pub(super) fn suspend_by_operator(
        &mut self,
        _: Now,
        id: GroupId,
        _: Ticket,
        _: &mut impl Up<M>,
    ) -> Result<(), OperatorError> {
        self.unable(id)
    }

    pub(super) fn resync_by_operator(
        &mut self,
        _: Now,
        id: GroupId,
        _: bool,
        _: &mut impl Up<M>,
    ) -> Result<(), OperatorError> {
        self.unable(id)
    }

    pub(super) fn bookmark(&mut self, _: Now, id: GroupId, _: &str, _: &mut impl Up<M>) -> Result<Time, OperatorError> {
        self.unable(id)
    }

    pub(super) fn verify(
        &mut self,
        _: Now,
        id: GroupId,
        _: Option<PairId>,
        _: bool,
        _: &mut impl Up<M>,
    ) -> Result<(), OperatorError> {
        self.unable(id)
    }

    fn unable<T>(&self, id: GroupId) -> Result<T, OperatorError> {
        match self.groups.get(&id) {
            None => Err(OperatorError::NotFound("there is no such group here".to_string())),
            Some(group) => Err(OperatorError::WrongState(format!(
                "group {} cannot do that in this version; nothing was changed",
                group.config.name
            ))),
        }
    }
}
