//! How a core that sleeps in the kernel learns that another core has put something into one of its rings.
//!
//! The sleeper announces that it will sleep, *then* looks at its rings once more, then sleeps. The producer pushes, *then*
//! looks at the announcement. A full fence on both sides between the two steps makes sure that at least one of them sees
//! the other (without it both may read the old value: the item is there and the core sleeps on). While nobody sleeps a
//! producer pays the fence and one load, no system call.
//!
//! ```
//! # use longrun_hal::{ring, wake};
//! let (sleeper, waker) = wake::pair().unwrap();
//! let (mut tx, mut rx) = ring::ring::<u32>(8);
//! // producer:
//! tx.push(1).unwrap();
//! waker.wake();
//! // sleeper, after some turns without work:
//! let announced = sleeper.announce();
//! if rx.is_empty() { /* uring.submit_and_reap(Some(..), ..) */ }
//! drop(announced);
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::fd::Fd;
use crate::sync::{Arc, AtomicBool, Ordering, fence};

#[cfg(test)]
mod tests;

/// The announcement: is the core asleep, or about to be?
struct Announcement {
    sleeping: AtomicBool,
}

impl Announcement {
    fn new() -> Announcement {
        Announcement { sleeping: AtomicBool::new(false) }
    }

    /// Sleeper, before its last look at the rings.
    fn announce(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        // Pairs with the fence in `must_wake`: either the last look finds the push, or the producer finds the flag.
        fence(Ordering::SeqCst);
    }

    /// Sleeper, awake again.
    fn withdraw(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Producer, after its push: must the sleeper be signalled? True for one producer per sleep.
    fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed)
    }
}

/// The side of the core that may sleep. One per reactor; give it to its [`Uring`](crate::Uring), which then returns from a
/// wait when the core is woken.
pub struct Sleeper {
    shared: Arc<Shared>,
}

/// The side of those who push into the core's rings. Clone it freely.
#[derive(Clone)]
pub struct Waker {
    shared: Arc<Shared>,
}

struct Shared {
    announcement: Announcement,
    event: Fd,
}

/// Both sides of one core's wake-up.
pub fn pair() -> io::Result<(Sleeper, Waker)> {
    // SAFETY: creates a descriptor, touches no memory.
    let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let event = Fd::from(unsafe { OwnedFd::from_raw_fd(raw) });
    let shared = Arc::new(Shared { announcement: Announcement::new(), event });
    Ok((Sleeper { shared: Arc::clone(&shared) }, Waker { shared }))
}

impl Sleeper {
    /// Announces sleep. Look at every ring once more after this, and go to sleep only if all are empty. Drop the result
    /// when awake.
    pub fn announce(&self) -> Announced<'_> {
        self.shared.announcement.announce();
        Announced { sleeper: self }
    }

    /// The descriptor that becomes readable when the core is woken.
    pub(crate) fn event(&self) -> &Fd {
        &self.shared.event
    }
}

/// While this lives, a producer wakes the core with a system call.
#[must_use = "dropping it ends the announcement"]
pub struct Announced<'a> {
    sleeper: &'a Sleeper,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.sleeper.shared.announcement.withdraw();
    }
}

impl Waker {
    /// Call after pushing into one of the core's rings. A fence and a load; one `write` if the core sleeps.
    pub fn wake(&self) {
        if self.shared.announcement.must_wake() {
            let one = 1u64.to_ne_bytes();
            // SAFETY: reads eight bytes of a local array. It can't fail in a way that matters: the counter is far below
            // its limit since each wake-up reads it, and the descriptor is open.
            unsafe { libc::write(self.shared.event.as_fd().as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }
}

impl std::fmt::Debug for Sleeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sleeper")
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}
