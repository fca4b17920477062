//! Looks at the two systems from outside while the host works: every 50 ms, by RPC, as an operator would.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use longrun_checker::HostTime;
use longrun_rpc::methods::group::GroupInfo;
use longrun_rpc::methods::link::{LinkCounters, LinkInfo};
use longrun_rpc::methods::pair::PairState;
use longrun_rpc::{Client, ClientError};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::clock::{Bracket, HostClock, TimelineMap};

/// Time between two looks.
pub const EVERY: Duration = Duration::from_millis(50);
/// A call that takes longer is a system that does not answer.
const CALL_WITHIN: Duration = Duration::from_secs(2);

/// What was seen of one system.
#[derive(Debug, Default)]
pub struct Seen {
    /// The group, at the last look.
    pub group: Option<GroupInfo>,
    /// The link's counters at the last look.
    pub link: LinkCounters,
    /// The age of the recovery point at each look, milliseconds.
    pub rpo_ms: Vec<f64>,
    /// Where the system's timeline stands on the host's clock.
    pub timeline: TimelineMap,
    /// The first suspended state that was seen, and its reason.
    pub suspended: Option<String>,
}

/// A thread that looks at one system until it is stopped or the system is gone.
pub struct Observer {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    /// Starts to look, over a connection of its own.
    ///
    /// # Errors
    ///
    /// If the thread cannot be made.
    pub fn start(name: &str, mut client: Client, clock: HostClock) -> std::io::Result<Observer> {
        client.set_timeout(CALL_WITHIN);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (of_thread, until) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name(format!("demo-{name}")).spawn(move || {
            while !until.load(Ordering::Relaxed) {
                // A system that was killed answers no more: what was seen last stays.
                if look(&mut client, clock, &of_thread).is_err() {
                    break;
                }
                std::thread::sleep(EVERY);
            }
        })?;
        Ok(Observer { seen, stop, thread: Some(thread) })
    }

    /// What was seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops looking, and hands out what was seen.
    pub fn finish(mut self) -> Seen {
        self.end();
        std::mem::take(&mut *self.seen())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.end();
    }
}

fn look(client: &mut Client, clock: HostClock, seen: &Mutex<Seen>) -> Result<(), ClientError> {
    let before = clock.now();
    let groups = client.call("group_get", json!({"name": super::GROUP}))?;
    let after = clock.now();
    let links = client.call("link_get", json!({"name": crate::lab::system::LINK}))?;
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(link) = first::<LinkInfo>(&links) {
        seen.link = link.counters;
    }
    let Some(group) = first::<GroupInfo>(&groups) else { return Ok(()) };
    seen.timeline.add(Bracket { before, after, timeline_ns: group.timeline_now_ns });
    let rpo_ms = group.lag.seconds.map(|seconds| seconds * 1e3).or(group.rpo_ms.map(|ms| ms as f64));
    seen.rpo_ms.extend(rpo_ms);
    if is_suspended(group.state) && seen.suspended.is_none() {
        let reason = group.reason.clone().unwrap_or_else(|| group.state.meaning().to_owned());
        seen.suspended = Some(format!("{}: {reason}", group.state));
    }
    seen.group = Some(group);
    Ok(())
}

/// Whether writes are no longer copied as they come.
pub fn is_suspended(state: PairState) -> bool {
    matches!(state, PairState::Pfus | PairState::Psus | PairState::Psue)
}

fn first<T: DeserializeOwned>(answer: &Value) -> Option<T> {
    serde_json::from_value(answer.get(0)?.clone()).ok()
}

/// The age of `point_ns` at `now`, in milliseconds, where the timeline is known well enough to say.
pub fn age_ms(timeline: &TimelineMap, point_ns: Option<u64>, now: HostTime) -> Option<f64> {
    let mapped = timeline.map(point_ns?)?;
    Some((now.0 as f64 - mapped.at.0 as f64) / 1e6)
}
