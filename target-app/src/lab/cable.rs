//! Networks of their own for the two systems, with a virtual cable (veth) from each to this process, so that raw frames can be
//! sent and received on any machine, without touching its own network.
//!
//! ```text
//!   primary's namespace          this process's namespace          secondary's namespace
//!   wire 10.77.1.2  ───────────  10.77.1.1  relay, host  10.77.2.1  ───────────  wire 10.77.2.2
//! ```
//!
//! This process goes into a namespace of its own first ([`enter_own_network`]); each system's process starts in another one.
//! A namespace goes with its last process, and its cables with it, however that ends.

use std::ffi::OsStr;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// Tells the program that it has a network of its own already.
const INSIDE: &str = "LONGRUN_IN_OWN_NETWORK";
/// How long a process may take to be in its namespace.
const PLUGGED_WITHIN: Duration = Duration::from_secs(10);
const PLUG_LOOK: Duration = Duration::from_millis(5);

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CableError {
    /// Not root.
    #[error(
        "raw frames take networks of their own, which only root may make; run it with sudo, or without --transport xdp"
    )]
    NotRoot,
    /// A program is missing.
    #[error("{program} cannot be run ({source}); install it: apt-get install iproute2 util-linux")]
    Program {
        /// Which.
        program: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It refused.
    #[error("ip {command} failed: {says}")]
    Ip {
        /// What it was told.
        command: String,
        /// What it said.
        says: String,
    },
    /// The process is not there.
    #[error("the process {pid} did not get a network of its own; is there a kernel with network namespaces?")]
    NoNamespace {
        /// Which.
        pid: u32,
    },
}

/// Starts the program anew in a network of its own, unless it is in one: does not return then.
///
/// # Errors
///
/// If that cannot be.
pub fn enter_own_network() -> Result<(), CableError> {
    if std::env::var_os(INSIDE).is_some() {
        return ip("link set lo up");
    }
    if !may_make_networks() {
        return Err(CableError::NotRoot);
    }
    let program = std::env::current_exe().map_err(|source| CableError::Program { program: "longrun", source })?;
    let mut again = Cable::command(program.as_os_str());
    Err(unshare(again.args(std::env::args_os().skip(1)).env(INSIDE, "1").exec()))
}

/// Whether this process may make networks.
pub fn may_make_networks() -> bool {
    rustix::process::geteuid().is_root()
}

fn unshare(source: io::Error) -> CableError {
    CableError::Program { program: "unshare", source }
}

/// A cable from this process's network to one system's.
#[derive(Clone, Copy, Debug)]
pub struct Cable {
    number: u8,
}

impl Cable {
    /// What the far end is called.
    pub const FAR_INTERFACE: &str = "wire";

    /// The `number`th cable, from 1. Nothing is made yet.
    pub fn new(number: u8) -> Cable {
        Cable { number }
    }

    /// The address of this end.
    pub fn near(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 1)
    }

    /// The address of the far end.
    pub fn far(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 2)
    }

    /// What runs a program in a network of its own, as the very process that is started.
    pub fn command(program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--net", "--"]).arg(program.as_ref());
        command
    }

    /// Lays the cable to a process that was started so.
    ///
    /// # Errors
    ///
    /// If the process or `ip` does not do as it should.
    pub fn plug_in(&self, pid: u32) -> Result<(), CableError> {
        let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
        let (own, until) = (namespace("self"), Instant::now() + PLUGGED_WITHIN);
        while namespace(&pid.to_string()).is_none_or(|other| Some(other) == own) {
            if Instant::now() >= until {
                return Err(CableError::NoNamespace { pid });
            }
            std::thread::sleep(PLUG_LOOK);
        }
        let (near, far, interface) = (self.near(), self.far(), Cable::FAR_INTERFACE);
        let here = format!("wire{}", self.number);
        ip(&format!("link add {here} type veth peer name {interface} netns {pid}"))?;
        ip(&format!("address add {near}/24 dev {here}"))?;
        ip(&format!("link set {here} up"))?;
        for command in [
            "link set lo up",
            &format!("address add {far}/24 dev {interface}"),
            &format!("link set {interface} up"),
            &format!("route add default via {near}"),
        ] {
            let mut inside = Command::new("nsenter");
            inside.arg(format!("--net=/proc/{pid}/ns/net")).args(["--", "ip"]).args(command.split(' '));
            carry_out(inside, "nsenter", command)?;
        }
        Ok(())
    }
}

/// Has this process's network pass on what comes by one cable for another.
///
/// # Errors
///
/// If the kernel refuses.
pub fn forward() -> Result<(), CableError> {
    let failed = |source: io::Error| CableError::Ip { command: "forward".to_owned(), says: source.to_string() };
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(failed)
}

/// A cable with both ends in this process's network, for raw frames.
///
/// # Errors
///
/// If `ip` does not do as it should.
pub fn lay(here: &str, there: &str) -> Result<(), CableError> {
    ip(&format!("link add {here} type veth peer name {there}"))?;
    [here, there].iter().try_for_each(|end| ip(&format!("link set {end} up")))
}

/// Takes it away again.
///
/// # Errors
///
/// If `ip` does not do as it should.
pub fn cut(here: &str) -> Result<(), CableError> {
    ip(&format!("link delete {here}"))
}

fn ip(command: &str) -> Result<(), CableError> {
    let mut program = Command::new("ip");
    program.args(command.split(' '));
    carry_out(program, "ip", command)
}

fn carry_out(mut program: Command, name: &'static str, command: &str) -> Result<(), CableError> {
    let output = program.output().map_err(|source| CableError::Program { program: name, source })?;
    if output.status.success() {
        return Ok(());
    }
    let says = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(CableError::Ip { command: command.to_owned(), says })
}
