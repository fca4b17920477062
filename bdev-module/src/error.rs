//! A device that fails on demand, on top of another.

use longrun_hal::Buf;

use crate::device::{Bdev, Control, ControlError, Env, RequestKey};
use crate::io::{BdevId, Io, IoError, IoType};

/// What happens to an unlucky request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with EIO, without reaching the base.
    Failure,
    /// It fails as if memory were short, to be tried again.
    NoMemory,
    /// It does not end until injections are cleared; then it fails.
    Pending,
}

/// Lets the next `count` requests of a kind meet a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// Which; `None` is all kinds, together `count` of them.
    pub io_type: Option<IoType>,
    /// What happens.
    pub fault: Fault,
    /// How many.
    pub count: u32,
}

/// Passes requests on until told otherwise.
pub struct ErrorBdev {
    base: BdevId,
    /// Oldest first; the first that fits is used up.
    injections: Vec<Injection>,
    /// Requests that do not end.
    pending: Vec<(RequestKey, Option<Buf>)>,
}

impl ErrorBdev {
    /// On top of `base`.
    pub fn new(base: BdevId) -> ErrorBdev {
        ErrorBdev { base, injections: Vec::new(), pending: Vec::new() }
    }

    fn fault(&mut self, io_type: IoType) -> Option<Fault> {
        let fits = |injection: &Injection| injection.io_type.is_none_or(|only| only == io_type);
        let at = self.injections.iter().position(fits)?;
        let injection = &mut self.injections[at];
        injection.count -= 1;
        let fault = injection.fault;
        if injection.count == 0 {
            self.injections.remove(at);
        }
        Some(fault)
    }
}

impl Bdev for ErrorBdev {
    fn submit(&mut self, env: &mut Env<'_>, request: RequestKey, io: Io) {
        match self.fault(io.io_type()) {
            None => env.submit_base(self.base, request.0, io),
            Some(Fault::Failure) => {
                env.complete(request, Err(IoError::Device { errno: libc::EIO }), io.into_buf());
            }
            Some(Fault::NoMemory) => env.complete(request, Err(IoError::NoMemory), io.into_buf()),
            Some(Fault::Pending) => self.pending.push((request, io.into_buf())),
        }
    }

    fn base_done(&mut self, env: &mut Env<'_>, tag: u32, result: Result<(), IoError>, buf: Option<Buf>) {
        env.complete(RequestKey(tag), result, buf);
    }

    fn control(&mut self, env: &mut Env<'_>, control: Control) -> Result<(), ControlError> {
        match control {
            Control::Inject(injection) => {
                if injection.count > 0 {
                    self.injections.push(injection);
                }
            }
            Control::ClearInjections => {
                self.injections.clear();
                for (request, buf) in self.pending.drain(..) {
                    env.complete(request, Err(IoError::Aborted), buf);
                }
            }
        }
        Ok(())
    }
}
