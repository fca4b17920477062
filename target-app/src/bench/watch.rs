//! What is watched from beside while jobs run: the age of the recovery point, and processes' CPU time.

use longrun_rpc::Client;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(20);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// One look at a group's recovery point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Age {
    /// When.
    pub at: Instant,
    /// How old, milliseconds, as the secondary says.
    pub ms: f64,
}

/// Watches a group at its secondary.
pub struct RpoWatch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Age>>,
}

impl RpoWatch {
    /// Begins.
    ///
    /// # Errors
    ///
    /// If nobody answers there, or there is no such group.
    pub fn start(socket: &Path, group: &str) -> Result<RpoWatch, String> {
        let mut client = Client::connect_within(socket, CONNECT_WITHIN).map_err(|error| error.to_string())?;
        let params = json!({"name": group});
        look(&mut client, &params)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watch = move || {
            let mut ages = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(Some(ms)) = look(&mut client, &params) {
                    ages.push(Age { at: Instant::now(), ms });
                }
                std::thread::sleep(INTERVAL);
            }
            ages
        };
        let thread = std::thread::Builder::new().name("bench-rpo".into()).spawn(watch);
        Ok(RpoWatch { stop, thread: thread.map_err(|error| error.to_string())? })
    }

    /// Ends; what was seen.
    pub fn finish(self) -> Vec<Age> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn look(client: &mut Client, params: &Value) -> Result<Option<f64>, String> {
    let groups = client.call("group_get", params.clone()).map_err(|error| error.to_string())?;
    Ok(age_ms(&groups[0]))
}

/// How old a group's recovery point is, to a microsecond. Not `rpo_ms`, which is rounded up to whole ones: what is to be
/// seen is below one.
fn age_ms(group: &Value) -> Option<f64> {
    group["lag"]["seconds"].as_f64().map(|seconds| (seconds * 1e6).round() / 1e3)
}

/// CPU time that a process has used, with that of its threads that are no more; `None`: there is no such process.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    // A clock's number holds the process's, and that of none below 1 would be this process's.
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0)?;
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).ok()?;
    Some(clock.now().ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::time::ClockId;

    #[test]
    fn an_age_below_a_millisecond_is_seen() {
        assert_eq!(age_ms(&json!({"rpo_ms": 1, "lag": {"seconds": 0.000_123_4}})), Some(0.123));
        assert_eq!(age_ms(&json!({"rpo_ms": null, "lag": {"seconds": null}})), None);
    }

    #[test]
    fn the_cpu_time_of_a_process_has_that_of_its_threads_also_of_those_that_ended() {
        let before = cpu_time(std::process::id()).expect("this process is there");
        let spin = || {
            let until = Instant::now() + Duration::from_millis(50);
            while Instant::now() < until {}
            Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().expect("a thread has a clock"))
        };
        let used: Duration = [(); 2].map(|()| std::thread::spawn(spin)).map(|spun| spun.join().unwrap()).iter().sum();
        let after = cpu_time(std::process::id()).expect("this process is there");
        assert!(after >= before + used, "{before:?}, {used:?} by two threads, {after:?}");
        assert_eq!([u32::MAX, 0].map(cpu_time), [None, None]);
    }
}
