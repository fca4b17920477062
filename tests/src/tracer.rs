//! Every system call of chosen threads, by `strace`: the kernel stops a traced thread at each one, so none is missed.

use crate::process::eventually;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Some threads that are being traced.
pub struct Tracer {
    child: Child,
    output: PathBuf,
}

/// What a thread did while it was traced: one line for each system call.
pub type Calls = Vec<String>;

impl Tracer {
    /// Begins; returns when all threads are traced. `witness` is one that makes system calls all the time: that its are
    /// seen is what shows that the others have made none.
    ///
    /// # Panics
    ///
    /// If `strace` is missing, or may not trace them.
    pub fn attach(directory: &Path, threads: &[u32], witness: u32) -> Tracer {
        let (output, errors) = (directory.join("trace"), directory.join("trace-errors"));
        let mut command = Command::new("strace");
        command.arg("-o").arg(&output).args(["-s", "0"]);
        let all = || threads.iter().chain([&witness]);
        for thread in all() {
            command.args(["-p", &thread.to_string()]);
        }
        let log = std::fs::File::create(&errors).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.unwrap_or_else(|error| panic!("strace: {error}; apt-get install strace"));
        let tracer = Tracer { child, output };
        eventually("strace to be attached", PATIENCE, || {
            let said = std::fs::read_to_string(&errors).unwrap_or_default();
            assert!(!said.contains("Operation not permitted"), "{said}; echo 0 > /proc/sys/kernel/yama/ptrace_scope");
            let is_attached = |thread: &u32| said.contains(&format!("Process {thread} attached"));
            if all().all(is_attached) { Ok(()) } else { Err(said) }
        });
        eventually("the witness to be seen", PATIENCE, || match tracer.calls_of(witness).len() {
            0..3 => Err("too few of its calls are".to_owned()),
            _ => Ok(()),
        });
        tracer
    }

    /// What a thread has done so far.
    pub fn calls_of(&self, thread: u32) -> Calls {
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        let of_thread = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
        let calls = of_thread.filter(|(tid, what)| *tid == thread.to_string() && !what.trim().starts_with(['-', '+']));
        calls.map(|(_, what)| what.trim().to_owned()).collect()
    }

    /// Lets all threads go; they run on.
    pub fn detach(mut self) -> impl Fn(u32) -> Calls {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-INT", &pid]).status();
        assert!(asked.is_ok_and(|status| status.success()), "strace has ended before it was told to");
        // It ends by the signal that it was asked by.
        let _ = self.child.wait();
        move |thread| self.calls_of(thread)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It may be gone already; there is nobody to tell otherwise.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The thread of a process that has this name.
///
/// # Panics
///
/// If there is none.
pub fn thread_named(pid: u32, name: &str) -> u32 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there").flatten();
    let mut named =
        tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|it| it.trim() == name));
    let task = named.next().unwrap_or_else(|| panic!("process {pid} has no thread {name}"));
    task.file_name().to_str().and_then(|tid| tid.parse().ok()).expect("a thread's number")
}
