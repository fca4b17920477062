//! A device that takes every write and reads as zeroes.

use crate::device::{Bdev, Env, RequestKey};
use crate::io::Io;

/// Reads zeroes, forgets writes. For measuring everything above it.
#[derive(Debug, Default)]
pub struct Null;

impl Bdev for Null {
    fn submit(&mut self, env: &mut Env<'_>, request: RequestKey, io: Io) {
        let mut buf = io.into_buf();
        if let Some(buf) = &mut buf {
            buf.fill(0);
        }
        env.complete(request, Ok(()), buf);
    }
}
