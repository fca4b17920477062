//! How the ring's tokens are shared out: the top byte is a class; classes below 0x10 are the block layer's
//! ([`longrun_bdev::core`]), these are the reactor's. The rest names the listener or the session.

/// Completion of an accept: the rest is the listener's index.
pub const ACCEPT: u64 = 0x10 << 56;
/// Completion of a session's receive.
pub const RECEIVE: u64 = 0x11 << 56;
/// Completion of a session's send.
pub const SEND: u64 = 0x12 << 56;
/// A completion that nobody waits for.
pub const IGNORED: u64 = 0x13 << 56;

/// The class of a token.
pub fn class(token: u64) -> u64 {
    token & (0xff << 56)
}

/// What a token names within its class.
pub fn index(token: u64) -> usize {
    (token & !(0xff << 56)) as usize
}
