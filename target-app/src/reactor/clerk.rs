//! A reactor's errand boy: whatever would make the reactor wait or enter the kernel — metadata for the store, lines for the
//! log, answers for the control plane — is carried out here.
//!
//! Handing something to another thread wakes it, which is a system call, and freeing what another thread allocated may wait
//! for that one's lock. While the reactor enters the kernel once a turn anyhow, it does so itself. Where it never enters
//! ([`Clerk::with_porter`]), errands go by ring to a thread of their own, the *porter*, that looks after them at short
//! intervals. When the reactor sleeps, so does the porter.

use super::{Answer, Command, ReactorHandle};
use crate::metadata::Metadata;
use longrun_bdev::replica::Persist;
use longrun_hal::ring::{Consumer, Producer, ring};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{JoinHandle, Thread};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Errands that wait for the porter; more wait at the reactor.
const ERRANDS_MAX: usize = 1024;
/// Metadata writes whose storage is kept.
const SPENT_MAX: usize = 64;
/// How long the porter sleeps after it found something to do, doubled each time that it finds nothing ...
const PAUSE_MIN: Duration = Duration::from_micros(50);
/// ... up to this: what the rarest errand is late.
const PAUSE_MAX: Duration = Duration::from_millis(1);

/// Something to be done beside a reactor.
pub enum Errand {
    /// Has a value made durable, and the engine told so.
    Persist(Persist),
    /// Logs a line.
    Log(String),
    /// Has the control plane look at what groups and volumes are now.
    News,
    /// Tells whoever asked for a command that it was run, and frees it.
    Finish(Box<dyn Command>),
    /// Answers an operator.
    Answer(oneshot::Sender<Answer>, Answer),
}

/// Who carries errands out.
pub struct Desk {
    metadata: Metadata,
    /// The reactor's own handle, by which it is told of durability.
    reactor: ReactorHandle,
    lines: Sender<String>,
    /// Told when the control plane has something to look at.
    news: Arc<Notify>,
}

impl Desk {
    /// A desk for this reactor.
    pub fn new(metadata: Metadata, reactor: ReactorHandle, lines: Sender<String>, news: Arc<Notify>) -> Desk {
        Desk { metadata, reactor, lines, news }
    }

    /// Does it. What was made durable comes back: its storage serves the next.
    fn carry_out(&self, errand: Errand) -> Option<Persist> {
        match errand {
            Errand::Persist(persist) => {
                let reactor = self.reactor.clone();
                let token = persist.token;
                self.metadata.put(&persist.key, &persist.value, move || {
                    reactor.post(move |reactor| {
                        let (core, uring, now) = reactor.core();
                        core.persisted(now, uring, token);
                    });
                });
                return Some(persist);
            }
            // The log's thread ends after the reactors.
            Errand::Log(line) => _ = self.lines.send(line),
            Errand::News => self.news.notify_one(),
            Errand::Finish(command) => command.finish(),
            // Whoever asked may have hung up.
            Errand::Answer(asked, answer) => _ = asked.send(answer),
        }
        None
    }
}

/// One reactor's clerk.
pub struct Clerk {
    way: Way,
    /// Storage of metadata writes that were carried out here.
    spent: Vec<Persist>,
}

enum Way {
    /// At once, on the reactor's own thread.
    Direct(Desk),
    Porter(Outlet),
}

/// The reactor's end of the way to its porter.
struct Outlet {
    ring: Producer<Errand>,
    /// What did not fit.
    waiting: VecDeque<Errand>,
    /// Storage of metadata writes that the porter has carried out: what it frees, the reactor must not.
    spent: Consumer<Persist>,
    /// The reactor sleeps in the kernel: nothing comes until it says that it is awake.
    is_resting: Arc<AtomicBool>,
    porter: Thread,
}

impl Clerk {
    /// A clerk that carries out everything at once.
    pub fn new(desk: Desk) -> Clerk {
        Clerk { way: Way::Direct(desk), spent: Vec::new() }
    }

    /// A clerk whose errands a porter carries out, and the porter's thread: it ends after the clerk was dropped and
    /// everything is carried out. `index` is the reactor's.
    pub fn with_porter(desk: Desk, index: usize) -> std::io::Result<(Clerk, JoinHandle<()>)> {
        let (producer, consumer) = ring(ERRANDS_MAX);
        let (back, spent) = ring(SPENT_MAX);
        let is_resting = Arc::new(AtomicBool::new(false));
        let of_porter = Arc::clone(&is_resting);
        let name = format!("porter-{index}");
        let thread = std::thread::Builder::new().name(name).spawn(move || carry(&desk, consumer, back, &of_porter))?;
        let waiting = VecDeque::with_capacity(ERRANDS_MAX);
        let outlet = Outlet { ring: producer, waiting, spent, is_resting, porter: thread.thread().clone() };
        Ok((Clerk { way: Way::Porter(outlet), spent: Vec::new() }, thread))
    }

    /// Has something done. In the order of the calls.
    pub fn hand(&mut self, errand: Errand) {
        match &mut self.way {
            Way::Direct(desk) => self.spent.extend(desk.carry_out(errand).filter(|_| self.spent.len() < SPENT_MAX)),
            Way::Porter(outlet) => {
                if !outlet.waiting.is_empty() {
                    outlet.waiting.push_back(errand);
                } else if let Err(errand) = outlet.ring.push(errand) {
                    outlet.waiting.push_back(errand);
                }
            }
        }
    }

    /// A metadata write that was handed over for good: its storage.
    pub fn spent(&mut self) -> Option<Persist> {
        match &mut self.way {
            Way::Direct(_) => self.spent.pop(),
            Way::Porter(outlet) => outlet.spent.pop(),
        }
    }

    /// Once per turn: hands over what did not fit. True if something still waits.
    pub fn flush(&mut self) -> bool {
        let Way::Porter(outlet) = &mut self.way else { return false };
        if outlet.waiting.is_empty() {
            return false;
        }
        outlet.ring.push_batch(&mut outlet.waiting);
        !outlet.waiting.is_empty()
    }

    /// The reactor goes to sleep in the kernel; the porter may, too.
    pub fn rest(&self) {
        if let Way::Porter(outlet) = &self.way {
            // Release: what was handed over comes before.
            outlet.is_resting.store(true, Ordering::Release);
        }
    }

    /// The reactor is awake again, and has entered the kernel for that: one more call of the kernel is none too many.
    pub fn resume(&self) {
        if let Way::Porter(outlet) = &self.way {
            outlet.is_resting.store(false, Ordering::Release);
            outlet.porter.unpark();
        }
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        if let Way::Porter(outlet) = &mut self.way {
            while !outlet.waiting.is_empty() {
                outlet.ring.push_batch(&mut outlet.waiting);
                outlet.porter.unpark();
                std::thread::sleep(PAUSE_MIN);
            }
        }
        self.resume();
    }
}

/// The porter's life.
fn carry(desk: &Desk, mut errands: Consumer<Errand>, mut spent: Producer<Persist>, is_resting: &AtomicBool) {
    let mut pause = PAUSE_MIN;
    loop {
        // Both before the last look at the ring: what was handed over before is seen by it.
        let (is_over, rests) = (errands.is_abandoned(), is_resting.load(Ordering::Acquire));
        let mut found = false;
        while let Some(errand) = errands.pop() {
            if let Some(persist) = desk.carry_out(errand) {
                // If there are enough of them, this one is freed.
                let _ = spent.push(persist);
            }
            found = true;
        }
        if is_over {
            return;
        }
        if found {
            pause = PAUSE_MIN;
        } else if rests {
            // Ends at once if the reactor has woken meanwhile, or woke since the last time.
            std::thread::park();
        } else {
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests;
