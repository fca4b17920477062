//! A system: a `serve` process of this same program with a directory of its own.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use longrun_rpc::methods::group::{GroupInfo, Role};
use longrun_rpc::methods::link::{LinkInfo, LinkState, Transport};
use longrun_rpc::methods::pair::PairState;
use longrun_rpc::types::PublicKey;
use longrun_rpc::{Client, ClientError};
use serde_json::{Value, json};

use super::cable::{Cable, CableError};
use super::children::Children;
use super::ports::free_udp;
use crate::identity::{self, IdentityError};

/// The link between two systems, at both.
pub const LINK: &str = "wan";

/// What a link's ends are told of the network between them.
#[derive(Clone, Debug)]
pub struct LinkQuality {
    /// Bytes of the longest datagram.
    pub mtu_bytes: u16,
    /// Share of datagrams that may be lost without anybody going slower.
    pub loss_tolerance: f64,
    /// The cores that it is on, if that is said.
    pub cores: Option<Vec<u16>>,
}

/// Strands of a lab's links at most: a system has so many UDP ports in a row.
pub const STRANDS_MAX: u16 = 4;

/// How long a process may take until its RPC socket answers.
const START_WITHIN: Duration = Duration::from_secs(20);
/// How long the two may take to find each other ...
const LINKED_WITHIN: Duration = Duration::from_secs(20);
/// ... and the pairs to be established: so long, and so much more for each of them.
const PAIRED_WITHIN: Duration = Duration::from_secs(60);
const PAIRED_WITHIN_EACH: Duration = Duration::from_millis(100);
/// How long raw frames may take to flow: as long as an address takes to be resolved. A link that goes by UDP then cannot.
const RAW_WITHIN: Duration = Duration::from_secs(15);
/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How much of a log an error shows.
const LOG_LINES_SHOWN: usize = 12;

/// Why a system could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemError {
    /// A file, a port or the process could not be made.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// No network of its own.
    #[error(transparent)]
    Cable(#[from] CableError),
    /// No key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A call failed.
    #[error("{system}: {source}\n{log}")]
    Rpc {
        /// Which of the two.
        system: &'static str,
        /// Why.
        source: ClientError,
        /// The end of its log.
        log: String,
    },
    /// It answered, but not with what is needed.
    #[error("{system}: {what}\n{log}")]
    Unexpected {
        /// Which of the two.
        system: &'static str,
        /// What is wrong.
        what: String,
        /// The end of its log.
        log: String,
    },
}

/// A running system. Dropping it kills the process.
pub struct System {
    name: &'static str,
    child: Child,
    children: Arc<Children>,
    socket: PathBuf,
    log: PathBuf,
    directory: PathBuf,
    link: SocketAddr,
    cable: Option<Cable>,
    key_file: PathBuf,
    key: PublicKey,
}

impl System {
    /// Starts a process with `directory`, which must exist, for all that it keeps, on these `processors`, as `--cores`
    /// takes them, and with these further `flags`; at the far end of a cable, if it is to have a network of its own.
    ///
    /// # Errors
    ///
    /// If it cannot be started or does not answer.
    pub fn start(
        name: &'static str,
        directory: &Path,
        processors: &str,
        flags: &[&str],
        children: &Arc<Children>,
        cable: Option<Cable>,
    ) -> Result<System, SystemError> {
        let failed = |doing: &str| {
            let doing = format!("{doing} of the {name} system");
            move |source| SystemError::Io { doing, source }
        };
        let place = |file: &str| directory.join(file);
        let key_file = place("link.key");
        let key = identity::generate(&key_file)?;
        let config = place("config.json");
        std::fs::write(&config, "{\"subsystems\": []}\n").map_err(failed("write the configuration"))?;
        let log = place("log");
        let output = File::create(&log).map_err(failed("create the log"))?;
        let errors = output.try_clone().map_err(failed("create the log"))?;
        let program = std::env::current_exe().map_err(failed("find the program"))?;
        let socket = place("rpc.sock");
        let mut command = match &cable {
            None => Command::new(program),
            Some(_) => Cable::command(&program),
        };
        command
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .arg("--rpc-socket")
            .arg(&socket)
            .arg("--state-dir")
            .arg(place("state"))
            .args(["--cores", processors])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let mut link = free_udp(STRANDS_MAX).map_err(failed("find a UDP port"))?;
        if let Some(cable) = &cable {
            link.set_ip(cable.far().into());
        }
        let child = children.start(&mut command).map_err(failed("start the process"))?;
        let (children, directory) = (Arc::clone(children), directory.to_owned());
        let system = System { name, child, children, socket, log, directory, link, cable, key_file, key };
        if let Some(cable) = &system.cable {
            cable.plug_in(system.pid())?;
        }
        system.client()?;
        Ok(system)
    }

    /// The name it was given.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it takes calls.
    pub fn rpc_socket(&self) -> &Path {
        &self.socket
    }

    /// Its end of the link.
    pub fn link(&self) -> SocketAddr {
        self.link
    }

    /// Its public key.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// A connection to its RPC socket.
    ///
    /// # Errors
    ///
    /// If it does not answer in time.
    pub fn client(&self) -> Result<Client, SystemError> {
        Client::connect_within(&self.socket, START_WITHIN).map_err(|source| self.rpc_error(source))
    }

    /// Calls a method and takes any result.
    ///
    /// # Errors
    ///
    /// With the server's words and the end of its log.
    pub fn call(&self, client: &mut Client, method: &str, params: Value) -> Result<Value, SystemError> {
        client.call(method, params).map_err(|source| self.rpc_error(source))
    }

    fn rpc_error(&self, source: ClientError) -> SystemError {
        SystemError::Rpc { system: self.name, source, log: self.log_end() }
    }

    /// An error about this system.
    pub fn unexpected(&self, what: impl Into<String>) -> SystemError {
        SystemError::Unexpected { system: self.name, what: what.into(), log: self.log_end() }
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
        lines.get(from..).unwrap_or_default().iter().map(|line| format!("  {} log: {line}\n", self.name)).collect()
    }

    /// An existing file of `bytes` zero bytes in its directory, for a bdev.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn file(&self, name: &str, bytes: u64) -> Result<PathBuf, SystemError> {
        let path = self.directory.join(name);
        File::create(&path)
            .and_then(|file| file.set_len(bytes))
            .map_err(|source| SystemError::Io { doing: format!("create {}", path.display()), source })?;
        Ok(path)
    }

    /// Makes its end of the link, with the other system's key and where to reach it. No key: without encryption and
    /// authentication.
    ///
    /// # Errors
    ///
    /// As [`System::call`].
    pub fn create_link(
        &self,
        client: &mut Client,
        remote: SocketAddr,
        remote_key: Option<PublicKey>,
        quality: LinkQuality,
    ) -> Result<(), SystemError> {
        let mut params = json!({
            "name": LINK, "local_addr": self.link, "remote_addr": remote, "mtu_bytes": quality.mtu_bytes,
            "loss_tolerance": quality.loss_tolerance,
        });
        if let Some(cores) = quality.cores {
            params["cores"] = json!(cores);
        }
        if self.cable.is_some() {
            (params["transport"], params["interface"]) = (json!("xdp"), json!(Cable::FAR_INTERFACE));
        }
        match remote_key {
            Some(key) => {
                (params["private_key_file"], params["remote_public_key"]) = (json!(self.key_file), json!(key));
            }
            None => params["security"] = json!("none"),
        }
        self.call(client, "link_create", params).map(drop)
    }

    /// Its end of the link, as it is now.
    ///
    /// # Errors
    ///
    /// As [`System::call`].
    pub fn link_info(&self, client: &mut Client) -> Result<LinkInfo, SystemError> {
        let links = self.call(client, "link_get", json!({"name": LINK}))?;
        let links: Vec<LinkInfo> =
            serde_json::from_value(links).map_err(|error| self.unexpected(format!("link_get answered {error}")))?;
        links.into_iter().next().ok_or_else(|| self.unexpected("its link is gone"))
    }

    /// Waits until its link is up.
    ///
    /// # Errors
    ///
    /// If it does not come up, with the link's reason.
    pub fn wait_until_linked(&self, client: &mut Client) -> Result<(), SystemError> {
        self.wait(LINKED_WITHIN, || {
            let link = self.link_info(client)?;
            let reason = link.reason.unwrap_or_default();
            Ok(if link.state == LinkState::Up { Ok(()) } else { Err(format!("the link did not come up: {reason}")) })
        })
    }

    /// Waits until its link goes by this transport: with raw frames asked for nothing else will do, they are to be shown or
    /// measured. Answers the link.
    ///
    /// # Errors
    ///
    /// If it still goes by another, with the link's reason.
    pub fn wait_for_transport(&self, client: &mut Client, transport: Transport) -> Result<LinkInfo, SystemError> {
        self.wait(RAW_WITHIN, || {
            let link = self.link_info(client)?;
            if link.transport == transport {
                return Ok(Ok(link));
            }
            Ok(Err(format!("its link goes by UDP: {}", link.transport_reason.unwrap_or_default())))
        })
    }

    /// Waits until a group of so many pairs is in state PAIR and consistent and, at the secondary, its recovery point moves.
    ///
    /// # Errors
    ///
    /// If that takes too long, with all that is known of the group.
    pub fn wait_until_paired(&self, client: &mut Client, group: &str, pairs: usize) -> Result<(), SystemError> {
        let mut first_point = None;
        self.wait(PAIRED_WITHIN + PAIRED_WITHIN_EACH * pairs as u32, || {
            let answer = self.call(client, "group_get", json!({"name": group}))?;
            let groups: Vec<GroupInfo> = serde_json::from_value(answer.clone())
                .map_err(|error| self.unexpected(format!("group_get answered {error}")))?;
            let Some(group) = groups.first() else { return Err(self.unexpected("the group is gone")) };
            let moves = match (group.role, group.recovery_point_ns) {
                (Role::Primary, _) => true,
                (Role::Secondary, Some(point)) => *first_point.get_or_insert(point) < point,
                (Role::Secondary, None) => false,
            };
            let is_paired = group.state == PairState::Pair && group.consistent && moves;
            Ok(if is_paired { Ok(()) } else { Err(format!("the pairs were not established: {answer}")) })
        })
    }

    /// Looks until something is there; what is said of it is the error when it takes too long.
    fn wait<T>(
        &self,
        within: Duration,
        mut look: impl FnMut() -> Result<Result<T, String>, SystemError>,
    ) -> Result<T, SystemError> {
        let until = Instant::now() + within;
        loop {
            match look()? {
                Ok(there) => return Ok(there),
                Err(said) if Instant::now() >= until => {
                    return Err(self.unexpected(format!("within {} s {said}", within.as_secs())));
                }
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// Makes a subsystem for any host with these devices as namespaces 1, 2, ..., and listens.
    ///
    /// # Errors
    ///
    /// As [`System::call`].
    pub fn export(&self, client: &mut Client, nqn: &str, bdevs: &[String]) -> Result<SocketAddr, SystemError> {
        let mut to = free_tcp_port().map_err(|source| SystemError::Io {
            doing: format!("find a TCP port of the {} system", self.name),
            source,
        })?;
        if let Some(cable) = &self.cable {
            to.set_ip(cable.far().into());
        }
        self.call(client, "nvmf_create_transport", json!({"trtype": "TCP"}))?;
        let subsystem = json!({"nqn": nqn, "allow_any_host": true, "max_namespaces": bdevs.len()});
        self.call(client, "nvmf_create_subsystem", subsystem)?;
        for (nsid, bdev) in (1u32..).zip(bdevs) {
            let namespace = json!({"bdev_name": bdev, "nsid": nsid});
            self.call(client, "nvmf_subsystem_add_ns", json!({"nqn": nqn, "namespace": namespace}))?;
        }
        let listen = json!({
            "trtype": "TCP", "adrfam": "IPv4", "traddr": to.ip(), "trsvcid": to.port().to_string()
        });
        self.call(client, "nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": listen}))?;
        Ok(to)
    }

    /// Whether the process has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL; returns when the process is gone.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn kill(&mut self) -> Result<(), SystemError> {
        let doing = || format!("kill the {} system", self.name);
        self.children.end(&mut self.child).map_err(|source| SystemError::Io { doing: doing(), source })
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // It may be gone already; there is nobody to tell otherwise.
        let _ = self.children.end(&mut self.child);
    }
}

/// A port that is free now. Another process could take it before it is used; then that use fails and says so.
fn free_tcp_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
