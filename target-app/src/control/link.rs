//! Links to other systems.

use super::frames::Frames;
use super::{Caller, Control, State};
use crate::reactor::{Engine, Reactor};
use longrun_bdev::replica::SocketStats;
use longrun_copy::link::{
    LinkConfig, LinkConfigError, LinkStats, Security as LinkSecurity, Strand as LinkStrand, public_of,
};
use longrun_copy::ports::CoreId;
use longrun_copy::types::{GroupId, LinkId, SystemId};
use longrun_hal::net::{UdpConfig, UdpEndpoint, udp_bind};
use longrun_rpc::RpcError;
use longrun_rpc::methods::link::{
    LinkCounters, LinkCreate, LinkDelete, LinkGet, LinkInfo, LinkState, Security, StrandInfo, Transport,
};
use longrun_rpc::types::PublicKey;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

/// Kernel buffers of a link's socket: what a few trains need while a core sleeps or works on something else.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// A link as the control plane knows it.
pub struct LinkEntry {
    /// As created.
    pub call: LinkCreate,
    /// What it is made of: mostly one.
    pub strands: Vec<Strand>,
    /// Its numbers on the cores that know it.
    pub known: BTreeMap<usize, Known>,
    /// The system at its other end.
    pub remote: SystemId,
    /// This end's public key.
    pub public_key: [u8; 32],
    /// What its state was when an operator last looked, and since when.
    seen: Option<(LinkState, Instant)>,
}

/// A part of a link with a core, addresses and a session of its own.
pub struct Strand {
    /// As if it were a link by itself.
    pub call: LinkCreate,
    /// The core that it is at home on.
    pub core: usize,
    /// Its number there.
    pub id: LinkId,
    /// Its raw frames, where it is to have them.
    pub frames: Frames,
}

/// A link as a core knows it.
#[derive(Clone)]
pub struct Known {
    /// By its strands' numbers.
    strands: Vec<LinkId>,
    /// What groups there call it.
    link: LinkId,
}

impl Control {
    pub(super) async fn link_create(&self, call: &LinkCreate, caller: Caller) -> Result<String, RpcError> {
        let mut state = self.state().await;
        let name = call.name.as_str().to_owned();
        if state.links.contains_key(&name) {
            return Err(RpcError::exists("link", &name));
        }
        let private_key = match &call.private_key_file {
            Some(path) => read_key(path)?,
            None => self.private_key,
        };
        let mut config = LinkConfig::plain(private_key, call.remote_addr);
        config.remote_public_key = call.remote_public_key.map(|key| *key.as_bytes());
        config.security = match call.security() {
            Security::Noise => LinkSecurity::Noise,
            Security::None => LinkSecurity::None,
        };
        config.mtu_bytes = usize::from(call.mtu_bytes());
        if let Some(tolerance) = call.loss_tolerance {
            config.loss_tolerance = tolerance.get();
        }
        config.rate_limit_bytes_per_s = call.rate_limit_bytes_per_s.map(|limit| limit.get());
        if call.security() == Security::None {
            tracing::warn!("link {name} has security \"none\": whoever can send it a datagram can change the copy");
        }
        config.check().map_err(|error| RpcError::invalid_params(error.to_string()))?;
        let remote = config.peer();
        let cores = self.cores_of(call, state.links.len(), caller)?;
        let mut parts = Vec::new();
        for (index, core) in cores.iter().enumerate() {
            let call = call.strand(index as u16);
            let endpoint = bind(&name, call.local_addr)?;
            let mut config = config.clone();
            config.remote_addr = Some(call.remote_addr);
            config.strand = LinkStrand { index: index as u8, of: cores.len() as u8 };
            config.rate_limit_bytes_per_s = config.rate_limit_bytes_per_s.map(|limit| limit / cores.len() as u64);
            config.check().map_err(|error| RpcError::invalid_params(error.to_string()))?;
            parts.push((*core, call, config, endpoint));
        }
        let public_key = public_of(&private_key);
        let (strands, known) = self.make_strands(parts).await?;
        let known = BTreeMap::from([(strands[0].core, known)]);
        let entry = LinkEntry { call: call.clone(), strands, known, remote, public_key, seen: None };
        let before = state.cntlid_range(&self.public_key());
        state.links.insert(name.clone(), entry);
        self.follow_links(&mut state, before).await;
        drop(state);
        if call.transport() == Transport::Xdp {
            for index in 0..cores.len() {
                self.attend_frames(&name, index).await;
            }
        }
        Ok(name)
    }

    /// The cores that a link is to be on.
    fn cores_of(&self, call: &LinkCreate, links: usize, caller: Caller) -> Result<Vec<usize>, RpcError> {
        let there = self.cores.len();
        let Some(cores) = &call.cores else { return Ok(vec![links % there]) };
        let missing = cores.iter().find(|core| usize::from(**core) >= there);
        match (missing, caller) {
            (Some(core), Caller::Operator) => Err(RpcError::invalid_params(format!(
                "core {core} is named, and this system has cores 0 to {}; name those, one more than once if the other system's \
                 link is on more, or start longrun serve with more --cores",
                there - 1
            ))),
            (Some(core), Caller::Configuration) => {
                // As many strands as before: the other system expects them.
                tracing::warn!(
                    "link {} is to be on core {core}, and this system has cores 0 to {}: it shares those that there are",
                    call.name.as_str(),
                    there - 1
                );
                Ok(cores.iter().map(|core| usize::from(*core) % there).collect())
            }
            (None, _) => Ok(cores.iter().map(|core| usize::from(*core)).collect()),
        }
    }

    /// Makes a link's strands on their cores; and what the first one's core, which is told of all of them, calls them.
    async fn make_strands(
        &self,
        mut parts: Vec<(usize, LinkCreate, LinkConfig, UdpEndpoint)>,
    ) -> Result<(Vec<Strand>, Known), RpcError> {
        let (core, call, config, endpoint) = parts.remove(0);
        let mut further = Vec::new();
        for (core, call, config, endpoint) in parts {
            let made = self.reactor(core).call(move |reactor| {
                let (core, uring, _) = reactor.core();
                core.link_create(uring, config, endpoint)
            });
            let id = made.await.map_err(|error| RpcError::invalid_params(error.to_string()))?;
            further.push(Strand { call, core, id, frames: Frames::default() });
        }
        let others: Vec<(usize, LinkId)> = further.iter().map(|strand| (strand.core, strand.id)).collect();
        let made = self.reactor(core).call(move |reactor| {
            let (inner, uring, _) = reactor.core();
            let first = inner.link_create(uring, config, endpoint)?;
            let all: Vec<_> = std::iter::once((core, first)).chain(others).collect();
            Ok::<_, LinkConfigError>((first, reactor.engine(|engine, _, _| make_known(engine, core, &all))))
        });
        let (id, known) = made.await.map_err(|error| RpcError::invalid_params(error.to_string()))?;
        further.insert(0, Strand { call, core, id, frames: Frames::default() });
        self.serve_strands(&further, core, &known).await;
        Ok((further, known))
    }

    /// Lets strands of other cores serve this one, which knows them.
    async fn serve_strands(&self, strands: &[Strand], core: usize, known: &Known) {
        for (strand, there) in strands.iter().zip(known.strands.clone()) {
            let id = strand.id;
            if strand.core != core {
                let serve = move |reactor: &mut Reactor| {
                    reactor.engine(|engine, _, world| engine.link_serve(id, core_id(core), there, world));
                };
                self.reactor(strand.core).call(serve).await;
            }
        }
    }

    pub(super) async fn link_delete(&self, call: &LinkDelete) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let link = link_of(&state, &call.name)?;
        if let Some(group) = state.groups.iter().find(|(_, group)| group.uses_link(&call.name)).map(|(name, _)| name) {
            return Err(RpcError::busy("link", &call.name, &format!("group {group}; group_delete it")));
        }
        let home: Vec<(usize, LinkId)> = link.strands.iter().map(|strand| (strand.core, strand.id)).collect();
        for (core, known) in link.known.clone() {
            let is_home = |id: LinkId| home.contains(&(core, id));
            let others: Vec<_> = known.strands.into_iter().chain([known.link]).filter(|id| !is_home(*id)).collect();
            let forget = move |reactor: &mut Reactor| {
                for id in others {
                    reactor.engine(|engine, now, world| engine.link_delete(now, id, world));
                }
            };
            self.reactor(core).call(forget).await;
        }
        for (core, id) in home {
            self.reactor(core)
                .call(move |reactor| {
                    let (core, uring, now) = reactor.core();
                    core.link_delete(now, uring, id);
                })
                .await;
        }
        let before = state.cntlid_range(&self.public_key());
        state.links.remove(&call.name);
        self.follow_links(&mut state, before).await;
        Ok(true)
    }

    /// The number that a link has for groups of a core, where it is made known if it is not yet.
    pub(super) async fn link_at(&self, state: &mut State, name: &str, core: usize) -> Result<LinkId, RpcError> {
        let link = link_of(state, name)?;
        if let Some(known) = link.known.get(&core) {
            return Ok(known.link);
        }
        let all: Vec<_> = link.strands.iter().map(|strand| (strand.core, strand.id)).collect();
        let make = move |reactor: &mut Reactor| reactor.engine(|engine, _, _| make_known(engine, core, &all));
        let known = self.reactor(core).call(make).await;
        self.serve_strands(&link.strands, core, &known).await;
        let (there, home) = (known.link, link.core());
        if let Some(knot) = link.known.get(&home).map(|known| known.link) {
            let serve = move |reactor: &mut Reactor| {
                reactor.engine(|engine, _, world| engine.link_bind_serve(knot, core_id(core), there, world));
            };
            self.reactor(home).call(serve).await;
        }
        if let Some(link) = state.links.get_mut(name) {
            link.known.insert(core, known);
        }
        Ok(there)
    }

    /// Tells a link where one of its groups is at home; `None`: nowhere any more.
    pub(super) async fn route_group(&self, state: &State, name: &str, group: GroupId, core: Option<usize>) {
        let Some(link) = state.links.get(name) else { return };
        let (home, id) = (link.core(), link.strands[0].id);
        let core = core.filter(|core| *core != home).map(core_id);
        self.reactor(home).call(move |reactor| reactor.engine(|engine, _, _| engine.link_route(id, group, core))).await;
    }

    /// What depends on the links that there are: the ids of controllers.
    async fn follow_links(&self, state: &mut State, cntlids_before: (u16, u16)) {
        let now = state.cntlid_range(&self.public_key());
        if state.move_cntlids(cntlids_before, now) {
            self.publish(state).await;
        }
    }

    pub(super) async fn link_get(&self, call: &LinkGet) -> Result<Vec<LinkInfo>, RpcError> {
        let mut state = self.state().await;
        if let Some(name) = &call.name {
            link_of(&state, name)?;
        }
        let mut infos = Vec::new();
        for (name, link) in &mut state.links {
            if call.name.as_ref().is_some_and(|wanted| wanted != name) {
                continue;
            }
            let mut parts = Vec::new();
            for strand in &link.strands {
                let id = strand.id;
                let look = move |core: &longrun_bdev::Core| (core.engine().link_stats(id), core.socket_stats(id));
                let (stats, sockets) = self.reactor(strand.core).call(move |reactor| look(reactor.core().0)).await;
                parts.push((stats.unwrap_or_default(), sockets.unwrap_or_default()));
            }
            let whole = link.known.get(&link.core()).map(|known| known.link);
            let is_up = match whole {
                Some(id) => {
                    self.reactor(link.core()).call(move |reactor| reactor.core().0.engine().link_is_up(id)).await
                }
                None => false,
            };
            infos.push(link.info(is_up, &parts));
        }
        Ok(infos)
    }
}

impl LinkEntry {
    /// The other end's public key, where it is known. With security the other end proves that it has it.
    pub fn remote_key(&self) -> Option<&[u8; 32]> {
        self.call.remote_public_key.as_ref().map(|key| key.as_bytes())
    }

    /// The core of its first strand.
    pub fn core(&self) -> usize {
        self.strands[0].core
    }

    fn info(&mut self, is_up: bool, parts: &[(LinkStats, SocketStats)]) -> LinkInfo {
        let strands: Vec<StrandInfo> =
            self.strands.iter().zip(parts).map(|(strand, (stats, sockets))| strand.info(stats, sockets)).collect();
        let state = match (is_up, parts.iter().all(|(stats, _)| stats.sessions > 0)) {
            (true, _) => LinkState::Up,
            (false, true) => LinkState::Down,
            (false, false) => LinkState::Connecting,
        };
        let since = match self.seen {
            Some((seen, since)) if seen == state => since,
            _ => Instant::now(),
        };
        self.seen = Some((state, since));
        let mut counters = LinkCounters::default();
        for strand in &strands {
            counters += strand.counters;
        }
        let by_udp = strands.iter().find(|strand| strand.transport == Transport::Udp);
        let (first, _) = &parts[0];
        LinkInfo {
            name: self.call.name.as_str().to_owned(),
            local_addr: self.call.local_addr,
            remote_addr: self.call.remote_addr,
            security: self.call.security(),
            local_public_key: Some(PublicKey::from(self.public_key)),
            remote_public_key: self.call.remote_public_key,
            state,
            reason: (state != LinkState::Up).then(|| self.reason(parts)),
            transport: if by_udp.is_some() { Transport::Udp } else { Transport::Xdp },
            transport_reason: by_udp.and_then(|strand| strand.transport_reason.clone()),
            raw: strands[0].raw.clone(),
            state_age_ms: since.elapsed().as_millis() as u64,
            core: self.core() as u16,
            mtu_bytes: self.call.mtu_bytes(),
            rtt_us: first.rtt_ns / 1000,
            rtt_us_min: first.rtt_min_ns / 1000,
            congestion_window_bytes: parts.iter().map(|(stats, _)| stats.window_bytes).sum(),
            in_flight_bytes: parts.iter().map(|(stats, _)| stats.in_flight_bytes).sum(),
            counters,
            strands: if strands.len() > 1 { strands } else { Vec::new() },
        }
    }

    /// Why there is no session.
    fn reason(&self, parts: &[(LinkStats, SocketStats)]) -> String {
        if let Some(theirs) = parts.iter().map(|(stats, _)| stats.strands_refused).find(|theirs| *theirs != 0) {
            return match (usize::from(theirs), parts.len()) {
                (theirs, ours) if theirs == ours => {
                    "the other system's ports are in another order than expected: its link's \
                     local_addr has to be this one's remote_addr, and the other way round"
                        .to_owned()
                }
                (theirs, ours) => format!(
                    "the other system's link is on {theirs} cores, and this one on {ours}; make one of the two again with as \
                     many `cores` as the other (a core may be named more than once)"
                ),
            };
        }
        let silent = self.strands.iter().zip(parts).find(|(_, (stats, _))| !stats.session_up);
        let Some((strand, (stats, _))) = silent else {
            return "its strands are about to begin a session together".to_owned();
        };
        let secure = self.call.security() == Security::Noise;
        let heard = if stats.datagrams_received == 0 { "nothing was heard from" } else { "no session with" };
        let expected = match (secure, self.call.remote_public_key) {
            (true, _) => "with this link's two keys",
            (false, Some(_)) => "without security as here, and with this link's two keys",
            // Its initiations are taken from that address alone.
            (false, None) => "without security as here, and does it send from that very address",
        };
        format!(
            "{heard} {}; is it running, {expected}, and does the network carry UDP between them?",
            strand.call.remote_addr
        )
    }
}

impl Strand {
    fn info(&self, stats: &LinkStats, sockets: &SocketStats) -> StrandInfo {
        StrandInfo {
            core: self.core as u16,
            local_addr: self.call.local_addr,
            remote_addr: self.call.remote_addr,
            state: match stats {
                LinkStats { session_up: true, .. } => LinkState::Up,
                LinkStats { sessions: 0, .. } => LinkState::Connecting,
                _ => LinkState::Down,
            },
            transport: self.frames.transport(),
            transport_reason: self.frames.reason().map(str::to_owned),
            raw: self.frames.info(&self.call, sockets),
            rtt_us: stats.rtt_ns / 1000,
            counters: LinkCounters {
                frames_sent: stats.datagrams_sent,
                frames_retransmitted: stats.data_frames_retransmitted,
                frames_received: stats.datagrams_received,
                bytes_sent: stats.bytes_sent,
                bytes_received: stats.bytes_received,
                frames_lost: stats.datagrams_lost,
                dropped_unauthentic: stats.dropped_unauthentic + stats.dropped_handshake,
                dropped_replayed: stats.dropped_replayed,
                dropped_stale: stats.dropped_stale_session,
                dropped_malformed: stats.dropped_malformed + stats.dropped_invalid,
                dropped_no_room: stats.data_frames_refused,
                handshakes: stats.handshakes_initiated + stats.handshakes_answered,
            },
        }
    }
}

/// Makes strands, as their cores know them, known to this one: those of other cores are reached, and several are bound.
fn make_known(engine: &mut Engine, core: usize, strands: &[(usize, LinkId)]) -> Known {
    let strands: Vec<LinkId> = strands
        .iter()
        .map(|&(home, id)| if home == core { id } else { engine.link_reach(core_id(core), core_id(home), id) })
        .collect();
    let link = if let [only] = strands[..] { only } else { engine.link_bind(core_id(core), strands.clone()) };
    Known { strands, link }
}

fn core_id(core: usize) -> CoreId {
    CoreId(core as u16)
}

fn bind(link: &str, local: SocketAddr) -> Result<UdpEndpoint, RpcError> {
    let socket = UdpConfig {
        receive_buffer_bytes: SOCKET_BUFFER_BYTES,
        send_buffer_bytes: SOCKET_BUFFER_BYTES,
        dont_fragment: true,
    };
    let endpoint = udp_bind(local, &socket).map_err(|error| {
        RpcError::errno(
            error.raw_os_error().unwrap_or(libc::EIO),
            format!("cannot bind UDP {local}: {error}; is the address this machine's and the port free?"),
        )
    })?;
    if let Some(notice) = &endpoint.notice {
        tracing::warn!("link {link}: {notice}");
    }
    Ok(endpoint)
}

pub(super) fn link_of<'a>(state: &'a State, name: &str) -> Result<&'a LinkEntry, RpcError> {
    state.links.get(name).ok_or_else(|| RpcError::not_found("link", name, "link_get"))
}

fn read_key(path: &Path) -> Result<[u8; 32], RpcError> {
    crate::identity::read_private_key(path).map_err(|error| RpcError::invalid_params(error.to_string()))
}
