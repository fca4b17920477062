//! The demo's processes and its directory, of which a signal must leave nothing: a process that lives on would hold its ports
//! and its memory, and nobody would know what it was for.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::signal::unix::{SignalKind, signal};

/// How often the directory's removal is tried: what still writes into it has been killed, or is this process.
const REMOVALS: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// The processes that run. Whoever starts or ends one does it here, under one lock, so that a signal finds all of them and
/// none twice.
pub struct Children {
    running: Mutex<Vec<u32>>,
}

impl Children {
    /// None yet. From here on SIGINT, SIGTERM and SIGHUP kill them, remove `directory`, and end this process as such a
    /// signal would.
    ///
    /// # Errors
    ///
    /// If signals cannot be waited for.
    pub fn of(directory: PathBuf) -> io::Result<Arc<Children>> {
        let children = Arc::new(Children { running: Mutex::default() });
        let of_thread = Arc::clone(&children);
        let (ready, is_ready) = channel();
        std::thread::Builder::new().name("demo-signals".to_owned()).spawn(move || {
            let number = match wait_for_signal(&ready) {
                Ok(number) => number,
                Err(error) => return drop(ready.send(Err(error))),
            };
            // Held to the end: nothing is started any more.
            let _running = of_thread.kill_all();
            for _ in 0..REMOVALS {
                match std::fs::remove_dir_all(&directory) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => std::thread::sleep(REMOVAL_PAUSE),
                    _ => break,
                }
            }
            std::process::exit(128 + number);
        })?;
        is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("the signals' thread ended")))?;
        Ok(children)
    }

    /// Starts a process.
    ///
    /// # Errors
    ///
    /// As [`Command::spawn`].
    pub fn start(&self, command: &mut Command) -> io::Result<Child> {
        let mut running = self.lock();
        let child = command.spawn()?;
        running.push(child.id());
        Ok(child)
    }

    /// SIGKILL; returns when the process is gone.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn end(&self, child: &mut Child) -> io::Result<()> {
        let mut running = self.lock();
        child.kill()?;
        child.wait()?;
        running.retain(|id| *id != child.id());
        Ok(())
    }

    fn kill_all(&self) -> MutexGuard<'_, Vec<u32>> {
        let running = self.lock();
        for pid in running.iter().filter_map(|id| Pid::from_raw(i32::try_from(*id).ok()?)) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
        running
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Says when signals are waited for, and answers the number of the one that came.
fn wait_for_signal(ready: &std::sync::mpsc::Sender<io::Result<()>>) -> io::Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let _ = ready.send(Ok(()));
        Ok(tokio::select! {
            _ = interrupt.recv() => libc::SIGINT,
            _ = terminate.recv() => libc::SIGTERM,
            _ = hangup.recv() => libc::SIGHUP,
        })
    })
}
