//! The configuration in the state directory: written after every call that may have changed it, before that is answered.

use super::{Control, State};
use longrun_rpc::RpcError;
use longrun_rpc::config::{Config, ConfigSubsystem, SUBSYSTEMS};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long after a failed write the same is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Whether a method may change what `save_config` writes.
pub(super) fn may_change(method: &str) -> bool {
    let only_looks = method.contains("_get") || method == "bdev_error_inject_error";
    !only_looks && !["framework_", "rpc_", "spdk_"].iter().any(|prefix| method.starts_with(prefix))
}

impl Control {
    /// Makes the configuration as it is now durable in the state directory. What cannot be written is tried again every
    /// second until it can.
    pub async fn save(&self) -> Result<(), RpcError> {
        // Held from the look to the write: what was seen later must not be written earlier.
        let mut saved = self.saved.lock().await;
        let text = self.configuration(&*self.state().await).to_text();
        let written = saved.write(text);
        self.save_is_due.store(written.is_err(), Ordering::Release);
        written.map_err(|error| {
            RpcError::errno(
                error.raw_os_error().unwrap_or(libc::EIO),
                format!(
                    "this was done, but {} cannot be written ({error}), so a start now would not bring it back; make room \
                     there or mend the disk, it is tried again every second",
                    saved.path().display()
                ),
            )
        })
    }

    /// Tries again what could not be written.
    pub async fn keep_saved(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RETRY).await;
            if self.save_is_due.load(Ordering::Acquire) && self.save().await.is_ok() {
                tracing::info!("the configuration is saved in the state directory again");
            }
        }
    }

    /// All of it, at one moment.
    fn configuration(&self, state: &State) -> Config {
        let part = |name: &str| ConfigSubsystem { subsystem: name.to_owned(), config: self.config_of(state, name) };
        Config { subsystems: SUBSYSTEMS.iter().map(|(name, _)| part(name)).collect(), ..Config::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_deletes_or_sets_something_is_saved_and_what_looks_is_not() {
        let changing = ["bdev_uring_create", "pair_delete", "group_takeover", "nvmf_subsystem_add_ns", "log_set_level"];
        assert!(changing.iter().all(|method| may_change(method)));
        let looking = ["bdev_get_bdevs", "pair_get", "rpc_get_methods", "spdk_kill_instance", "framework_get_config"];
        assert!(!looking.iter().any(|method| may_change(method)));
    }
}
