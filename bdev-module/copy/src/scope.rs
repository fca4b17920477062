//! What a sequence number counts: the one place that makes stream ids.

use crate::types::{GroupId, PairId, Scope, StreamId, SystemId};

/// The stream that a pair's records come in (claims 25-29). The scopes differ in nothing but this: what the id is made
/// of decides which records share a count.
pub fn stream_of(scope: Scope, owner: SystemId, remote: SystemId, group: GroupId, pair: PairId) -> StreamId {
    match scope {
        Scope::System => StreamId::of(owner, remote, &[]),
        Scope::Group => StreamId::of(owner, remote, &[group.0]),
        Scope::Pair => StreamId::of(owner, remote, &[group.0, pair.0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_decides_which_pairs_share_a_stream() {
        let (here, there) = (SystemId(1), SystemId(2));
        let of = |scope, group, pair| stream_of(scope, here, there, GroupId(group), PairId(pair));
        for scope in [Scope::Pair, Scope::Group, Scope::System] {
            let same_group = of(scope, 1, 1) == of(scope, 1, 2);
            let other_group = of(scope, 1, 1) == of(scope, 2, 3);
            assert_eq!(same_group, scope != Scope::Pair);
            assert_eq!(other_group, scope == Scope::System);
            let towards_another = stream_of(scope, here, SystemId(3), GroupId(1), PairId(1));
            assert_ne!(of(scope, 1, 1), towards_another);
        }
    }

    #[test]
    fn streams_of_different_scopes_never_share_an_id() {
        let of = |scope| stream_of(scope, SystemId(1), SystemId(2), GroupId(7), PairId(7));
        assert_ne!(of(Scope::Pair), of(Scope::Group));
        assert_ne!(of(Scope::Group), of(Scope::System));
    }
}
