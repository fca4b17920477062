//! Pinning threads to cores. Core numbers come from the configuration: a listing of cores leaves out isolated ones.

/// Why a thread could not be pinned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AffinityError {
    #[error(
        "cannot pin to core {core}: this machine has {online} cores online (numbers from 0); name another core in the configuration"
    )]
    NoSuchCore { core: usize, online: usize },
    #[error(
        "cannot pin to core {core}: the kernel refused; is the core offline, or shut out by taskset, cgroup cpusets or a container limit?"
    )]
    Refused { core: usize },
}

/// Pins the calling thread to one core for good.
pub fn pin_current_thread(core: usize) -> Result<(), AffinityError> {
    let online = cores_online();
    // Numbers may have holes where cores are offline, so only what lies beyond every possible number is ruled out here.
    if core >= online.max(cores_configured()) {
        return Err(AffinityError::NoSuchCore { core, online });
    }
    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        Ok(())
    } else {
        Err(AffinityError::Refused { core })
    }
}

/// How many cores are online, isolated ones included.
pub fn cores_online() -> usize {
    sysconf(libc::_SC_NPROCESSORS_ONLN)
}

fn cores_configured() -> usize {
    sysconf(libc::_SC_NPROCESSORS_CONF)
}

fn sysconf(name: libc::c_int) -> usize {
    // SAFETY: reads a number of the system, touches no memory of ours.
    usize::try_from(unsafe { libc::sysconf(name) }).unwrap_or(1).max(1)
}

/// The core that the calling thread runs on at this moment.
pub fn current_core() -> usize {
    // SAFETY: as above.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_runs_on_its_core_and_a_core_that_is_not_there_is_named_in_the_error() {
        std::thread::spawn(|| {
            let core = cores_online() - 1;
            pin_current_thread(core).unwrap();
            for _ in 0..100 {
                assert_eq!(current_core(), core);
                std::thread::yield_now();
            }
            let far = cores_configured() + 7;
            let error = pin_current_thread(far).unwrap_err();
            assert!(error.to_string().contains(&format!("core {far}")), "{error}");
        })
        .join()
        .unwrap();
    }
}
