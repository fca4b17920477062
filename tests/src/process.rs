//! A running `longrun serve`.

use crate::program;
use longrun::lab::cable::Cable;
use longrun_rpc::{Client, ClientError, RpcError};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a process may take until its RPC socket answers, and until it has ended in good order.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A process with a directory for all that it keeps. Dropping it kills the process; the directory is the caller's.
pub struct Longrun {
    child: Child,
    directory: PathBuf,
    /// More flags for `serve`.
    flags: Vec<String>,
}

impl Longrun {
    /// Starts a process without configuration. `directory` must exist.
    pub fn start(directory: &Path) -> Longrun {
        Longrun::start_with(directory, &[])
    }

    /// The same with more flags for `serve`; without `--cores` among them processes take turns on the processors.
    pub fn start_with(directory: &Path, flags: &[&str]) -> Longrun {
        let config = directory.join("config.json");
        if !config.exists() {
            std::fs::write(&config, "{\"subsystems\": []}\n").unwrap();
        }
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let longrun = Longrun { child: spawn(directory, true, &flags), directory: directory.to_owned(), flags };
        longrun.client();
        longrun
    }

    /// Starts a process without configuration in a network of its own, at the far end of this cable. Root only, and from within
    /// a network of one's own: [`in_own_network`](crate::network::in_own_network).
    pub fn start_behind(directory: &Path, cable: &Cable) -> Longrun {
        std::fs::write(directory.join("config.json"), "{\"subsystems\": []}\n").unwrap();
        let child = spawn_by(Cable::command(program::path()), directory, true, &[]);
        let longrun = Longrun { child, directory: directory.to_owned(), flags: Vec::new() };
        cable.plug_in(longrun.pid()).unwrap();
        longrun.client();
        longrun
    }

    /// Starts a process without a configuration file: with what its state directory in `directory` holds.
    pub fn start_from_state(directory: &Path) -> Longrun {
        let (child, directory) = (spawn(directory, false, &[]), directory.to_owned());
        let longrun = Longrun { child, directory, flags: Vec::new() };
        longrun.client();
        longrun
    }

    /// Starts the process again with what its state directory holds. It must not be running.
    pub fn start_again_from_state(&mut self) {
        assert!(self.ended().is_some(), "still running");
        self.child = spawn(&self.directory, false, &self.flags);
        self.client();
    }

    /// Starts the process with what its state directory holds, which must not be possible; answers what it says. It must
    /// not be running.
    pub fn refused_start(&mut self) -> String {
        assert!(self.ended().is_some(), "still running");
        let before = self.log().len();
        self.child = spawn(&self.directory, false, &self.flags);
        let status = self.child.wait().unwrap();
        let said = self.log().split_off(before);
        assert!(!status.success(), "it ended well: {said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    /// Starts the process again in the same directory, with the configuration saved last. It must not be running.
    pub fn start_again(&mut self) {
        self.start_again_without_waiting();
        self.client();
    }

    /// The same, without waiting until its RPC answers.
    pub fn start_again_without_waiting(&mut self) {
        assert!(self.ended().is_some(), "still running");
        self.child = spawn(&self.directory, true, &self.flags);
    }

    /// Writes the running configuration to where the next start finds it, as an operator would.
    pub fn save_config(&self) {
        let output = self.command(&["save-config", self.directory.join("config.json").to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs the program's command line against this process.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let (verb, rest) = arguments.split_first().expect("a command");
        let mut command = Command::new(program::path());
        command.arg(verb).args(rest).arg("--rpc-socket").arg(self.socket()).stdin(Stdio::null());
        command.output().expect("the program starts")
    }

    /// The RPC socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("rpc.sock")
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection to the RPC socket, when it answers.
    pub fn client(&self) -> Client {
        Client::connect_within(self.socket(), PATIENCE).unwrap_or_else(|error| panic!("{error}\n{}", self.log_end()))
    }

    /// Calls a method that must succeed.
    pub fn call(&self, method: &str, params: Value) -> Value {
        self.try_call(method, params.clone())
            .unwrap_or_else(|error| panic!("{method} {params}: {error}\n{}", self.log_end()))
    }

    /// Calls a method.
    pub fn try_call(&self, method: &str, params: Value) -> Result<Value, ClientError> {
        self.client().call(method, params)
    }

    /// Calls a method that must be refused.
    pub fn refused(&self, method: &str, params: Value) -> RpcError {
        match self.try_call(method, params.clone()) {
            Err(ClientError::Rpc(error)) => error,
            other => panic!("{method} {params} was not refused but: {other:?}\n{}", self.log_end()),
        }
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends the process as an operator would, and waits for it.
    pub fn stop(&mut self) {
        self.call("spdk_kill_instance", json!({"sig_name": "SIGTERM"}));
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.ended() {
                assert!(status.success(), "ended with {status}\n{}", self.log_end());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("did not end\n{}", self.log_end());
    }

    /// Panics if the process has ended by itself.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.ended() {
            panic!("ended by itself with {status}\n{}", self.log_end());
        }
    }

    /// The whole log, of all starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// The end of the log, for messages.
    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!(
            "the end of {}'s log:\n{}",
            self.directory.display(),
            lines[lines.len().saturating_sub(15)..].join("\n")
        )
    }

    /// A new file of `bytes` zero bytes in its directory.
    pub fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.directory.join(name);
        File::create(&path).and_then(|file| file.set_len(bytes)).unwrap();
        path
    }

    /// Makes a bdev on a new file, which outlasts the process.
    pub fn create_volume(&self, name: &str, bytes: u64, block_bytes: u64) {
        let filename = self.file(name, bytes);
        let params = json!({"name": name, "filename": filename, "block_size": block_bytes});
        self.call("bdev_uring_create", params);
    }

    /// Makes a subsystem for any host with these bdevs as namespaces 1, 2, ...
    pub fn export(&self, nqn: &str, bdevs: &[&str], to: SocketAddr) {
        if self.call("nvmf_get_transports", json!({})) == json!([]) {
            self.call("nvmf_create_transport", json!({"trtype": "TCP"}));
        }
        self.call("nvmf_create_subsystem", json!({"nqn": nqn, "allow_any_host": true}));
        for (nsid, bdev) in (1u32..).zip(bdevs) {
            let params = json!({"nqn": nqn, "namespace": {"bdev_name": bdev, "nsid": nsid}});
            self.call("nvmf_subsystem_add_ns", params);
        }
        self.call("nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": listen_address(to)}));
    }
}

impl Drop for Longrun {
    fn drop(&mut self) {
        // It may be gone already; there is nobody to tell otherwise.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(directory: &Path, with_config: bool, flags: &[String]) -> Child {
    spawn_by(Command::new(program::path()), directory, with_config, flags)
}

fn spawn_by(mut command: Command, directory: &Path, with_config: bool, flags: &[String]) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap();
    let place = |file: &str| directory.join(file);
    command.arg("serve").args(flags);
    if !flags.iter().any(|flag| flag == "--memory-mib") {
        command.args(["--memory-mib", "256"]);
    }
    if !flags.iter().any(|flag| flag == "--cores") {
        command.args(["--cores", &next_processor()]);
    }
    if with_config {
        command.arg("--config").arg(place("config.json"));
    }
    command
        .arg("--rpc-socket")
        .arg(place("rpc.sock"))
        .arg("--state-dir")
        .arg(place("state"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("the program starts")
}

/// Processes take turns on the processors.
fn next_processor() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let there = std::thread::available_parallelism().map_or(1, NonZero::get);
    (NEXT.fetch_add(1, Ordering::Relaxed) % there).to_string()
}

/// An address as `listen_address` takes it.
pub fn listen_address(to: SocketAddr) -> Value {
    json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": to.ip(), "trsvcid": to.port().to_string()})
}

/// A TCP address that is free now.
pub fn free_tcp() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).unwrap()
}

/// A UDP address that is free now.
pub fn free_udp() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).unwrap()
}

/// Looks every 20 ms until `look` says something.
///
/// # Panics
///
/// With the last reason, when it took longer than `patience`.
pub fn eventually<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) if Instant::now() >= until => panic!("{what}: not within {} s: {why}", patience.as_secs()),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
