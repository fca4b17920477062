//! Links to other systems.

use super::frames::Frames;
use super::{Control, State};
use longrun_bdev::replica::SocketStats;
use longrun_copy::link::{LinkConfig, LinkStats, Security as LinkSecurity, public_of};
use longrun_copy::ports::CoreId;
use longrun_copy::types::{GroupId, LinkId, SystemId};
use longrun_hal::net::{UdpConfig, udp_bind};
use longrun_rpc::RpcError;
use longrun_rpc::methods::link::{
    LinkCounters, LinkCreate, LinkDelete, LinkGet, LinkInfo, LinkState, Security, Transport,
};
use longrun_rpc::types::PublicKey;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Kernel buffers of a link's socket: what a few trains need while a core sleeps or works on something else.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// A link as the control plane knows it.
pub struct LinkEntry {
    /// As created.
    pub call: LinkCreate,
    /// The core that it is at home on.
    pub core: usize,
    /// Its number there.
    pub id: LinkId,
    /// Its numbers on the other cores that groups of it are at home on.
    pub away: BTreeMap<usize, LinkId>,
    /// The system at its other end.
    pub remote: SystemId,
    /// This end's public key.
    pub public_key: [u8; 32],
    /// Its raw frames, where it is to have them.
    pub frames: Frames,
    /// What its state was when an operator last looked, and since when.
    seen: Option<(LinkState, Instant)>,
}

impl Control {
    pub(super) async fn link_create(&self, call: &LinkCreate) -> Result<String, RpcError> {
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
        let socket = UdpConfig {
            receive_buffer_bytes: SOCKET_BUFFER_BYTES,
            send_buffer_bytes: SOCKET_BUFFER_BYTES,
            dont_fragment: true,
        };
        let endpoint = udp_bind(call.local_addr, &socket).map_err(|error| {
            RpcError::errno(
                error.raw_os_error().unwrap_or(libc::EIO),
                format!(
                    "cannot bind UDP {}: {error}; is the address this machine's and the port free?",
                    call.local_addr
                ),
            )
        })?;
        if let Some(notice) = &endpoint.notice {
            tracing::warn!("link {name}: {notice}");
        }
        let core = state.links.len() % self.cores.len();
        let id = self
            .reactor(core)
            .call(move |reactor| {
                let (core, uring, _) = reactor.core();
                core.link_create(uring, config, endpoint)
            })
            .await
            .map_err(|error| RpcError::invalid_params(error.to_string()))?;
        let public_key = public_of(&private_key);
        let entry = LinkEntry {
            call: call.clone(),
            core,
            id,
            away: BTreeMap::new(),
            remote,
            public_key,
            frames: Frames::default(),
            seen: None,
        };
        let before = state.cntlid_range(&self.public_key());
        state.links.insert(name.clone(), entry);
        self.follow_links(&mut state, before).await;
        drop(state);
        if call.transport() == Transport::Xdp {
            self.attend_frames(&name).await;
        }
        Ok(name)
    }

    pub(super) async fn link_delete(&self, call: &LinkDelete) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let link = link_of(&state, &call.name)?;
        if let Some(group) = state.groups.iter().find(|(_, group)| group.uses_link(&call.name)).map(|(name, _)| name) {
            return Err(RpcError::busy("link", &call.name, &format!("group {group}; group_delete it")));
        }
        let (core, id, away) = (link.core, link.id, link.away.clone());
        for (core, id) in away {
            self.reactor(core)
                .call(move |reactor| reactor.engine(|engine, now, world| engine.link_delete(now, id, world)))
                .await;
        }
        self.reactor(core)
            .call(move |reactor| {
                let (core, uring, now) = reactor.core();
                core.link_delete(now, uring, id);
            })
            .await;
        let before = state.cntlid_range(&self.public_key());
        state.links.remove(&call.name);
        self.follow_links(&mut state, before).await;
        Ok(true)
    }

    /// The number that a link has for groups of a core, where it is made known if it is not yet.
    pub(super) async fn link_at(&self, state: &mut State, name: &str, core: usize) -> Result<LinkId, RpcError> {
        let link = link_of(state, name)?;
        let (home, id) = (link.core, link.id);
        if let Some(id) = link.away.get(&core).or((core == home).then_some(&link.id)) {
            return Ok(*id);
        }
        let (here, there) = (CoreId(core as u16), CoreId(home as u16));
        let away = self
            .reactor(core)
            .call(move |reactor| reactor.engine(|engine, _, _| engine.link_reach(here, there, id)))
            .await;
        self.reactor(home)
            .call(move |reactor| reactor.engine(|engine, _, world| engine.link_serve(id, here, away, world)))
            .await;
        if let Some(link) = state.links.get_mut(name) {
            link.away.insert(core, away);
        }
        Ok(away)
    }

    /// Tells a link where one of its groups is at home; `None`: nowhere any more.
    pub(super) async fn route_group(&self, state: &State, name: &str, group: GroupId, core: Option<usize>) {
        let Some(link) = state.links.get(name) else { return };
        let id = link.id;
        let core = core.filter(|core| *core != link.core).map(|core| CoreId(core as u16));
        self.reactor(link.core)
            .call(move |reactor| reactor.engine(|engine, _, _| engine.link_route(id, group, core)))
            .await;
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
            let id = link.id;
            let look = move |core: &longrun_bdev::Core| (core.engine().link_stats(id), core.socket_stats(id));
            let (stats, sockets) = self.reactor(link.core).call(move |reactor| look(reactor.core().0)).await;
            infos.push(link.info(&stats.unwrap_or_default(), &sockets.unwrap_or_default()));
        }
        Ok(infos)
    }
}

impl LinkEntry {
    /// The other end's public key, where it is known. With security the other end proves that it has it.
    pub fn remote_key(&self) -> Option<&[u8; 32]> {
        self.call.remote_public_key.as_ref().map(|key| key.as_bytes())
    }

    fn info(&mut self, stats: &LinkStats, sockets: &SocketStats) -> LinkInfo {
        let state = match stats {
            LinkStats { session_up: true, .. } => LinkState::Up,
            LinkStats { sessions: 0, .. } => LinkState::Connecting,
            _ => LinkState::Down,
        };
        let since = match self.seen {
            Some((seen, since)) if seen == state => since,
            _ => Instant::now(),
        };
        self.seen = Some((state, since));
        let secure = self.call.security() == Security::Noise;
        let heard = if stats.datagrams_received == 0 { "nothing was heard from" } else { "no session with" };
        LinkInfo {
            name: self.call.name.as_str().to_owned(),
            local_addr: self.call.local_addr,
            remote_addr: self.call.remote_addr,
            security: self.call.security(),
            local_public_key: Some(PublicKey::from(self.public_key)),
            remote_public_key: self.call.remote_public_key,
            state,
            reason: (state != LinkState::Up).then(|| {
                let expected = match (secure, self.call.remote_public_key) {
                    (true, _) => "with this link's two keys",
                    (false, Some(_)) => "without security as here, and with this link's two keys",
                    // Its initiations are taken from that address alone.
                    (false, None) => "without security as here, and does it send from that very address",
                };
                format!(
                    "{heard} {}; is it running, {expected}, and does the network carry UDP between them?",
                    self.call.remote_addr
                )
            }),
            transport: self.frames.transport(),
            transport_reason: self.frames.reason().map(str::to_owned),
            raw: self.frames.info(&self.call, sockets),
            state_age_ms: since.elapsed().as_millis() as u64,
            core: self.core as u16,
            mtu_bytes: self.call.mtu_bytes(),
            rtt_us: stats.rtt_ns / 1000,
            rtt_us_min: stats.rtt_min_ns / 1000,
            congestion_window_bytes: stats.window_bytes,
            in_flight_bytes: stats.in_flight_bytes,
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

pub(super) fn link_of<'a>(state: &'a State, name: &str) -> Result<&'a LinkEntry, RpcError> {
    state.links.get(name).ok_or_else(|| RpcError::not_found("link", name, "link_get"))
}

fn read_key(path: &Path) -> Result<[u8; 32], RpcError> {
    crate::identity::read_private_key(path).map_err(|error| RpcError::invalid_params(error.to_string()))
}
