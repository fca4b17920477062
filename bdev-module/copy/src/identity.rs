//! Under which identity (NVMe NGUID and UUID, the same 16 bytes) a pair's volume shows itself to hosts.
//!
//! One key of the metadata for both parts that a system can play, so that it outlasts a change of part. The primary's
//! embedding says it once ([`crate::primary::Primary::identify`]); it travels to the secondary before the pair joins, and is
//! durable there before the pair is joined. So a volume is the same disk at both sites, and a swap leaves it what it is; a
//! takeover that is not a swap's gives it another one ([`crate::takeover::volume_uuid`]), which travels back with the failback.

use crate::ports::Ports;
use crate::types::PairId;

const VERSION: u8 = 1;

pub(crate) fn key(pair: PairId) -> String {
    format!("pair/identity/{:016x}", pair.0)
}

pub(crate) fn encode(identity: [u8; 16]) -> Vec<u8> {
    [&[VERSION][..], &identity].concat()
}

/// The identity of a pair's volume; `None`: neither side has said it yet.
pub fn of_pair(pair: PairId, ports: &impl Ports) -> Option<[u8; 16]> {
    let value = ports.recall(&key(pair))?;
    let [VERSION, identity @ ..] = value.as_slice() else { return None };
    identity.try_into().ok()
}
