//! Raw frames of links: opened outside of the cores, which takes a while, handed to the link's core, and looked after.
//!
//! A link with `transport = "xdp"` has a UDP socket as every link does. Raw frames come on top of it when the interface can be
//! opened and the kernel knows the next hop's Ethernet address, and go when one of the two is not so any more; either is
//! noticed within a second. Until then, and if it never comes to that, the link works by UDP and says why.

use super::Control;
use super::way::{Way, way_to};
use longrun_bdev::replica::{Hop, SocketStats};
use longrun_copy::types::LinkId;
use longrun_hal::net::Interface;
use longrun_hal::xdp::{Xdp, XdpConfig, XdpGauge, XdpMode};
use longrun_rpc::methods::link::{LinkCreate, RawInfo, RawMode, Transport};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the links are gone through.
const LOOK: Duration = Duration::from_millis(200);
/// How often a link that has all it needs is looked at.
const LOOK_AT_GOOD: Duration = Duration::from_secs(1);
/// How often it is tried to open what could not be opened.
const OPEN_AGAIN: Duration = Duration::from_secs(10);

/// A link's raw frames as the control plane knows them.
#[derive(Default)]
pub struct Frames {
    open: Option<Open>,
    /// Why there are none now.
    reason: Option<String>,
    /// When to look next; `None`: now.
    next: Option<Instant>,
    /// Somebody is looking.
    busy: bool,
}

/// An interface's queue that is open.
struct Open {
    interface: Interface,
    mode: XdpMode,
    gauge: XdpGauge,
    hop: Option<Hop>,
}

impl Frames {
    /// What the link's datagrams go by now.
    pub fn transport(&self) -> Transport {
        match &self.open {
            Some(Open { hop: Some(_), .. }) => Transport::Xdp,
            _ => Transport::Udp,
        }
    }

    /// Why not by raw frames, if they were asked for.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// For `link_get`.
    pub fn info(&self, call: &LinkCreate, sockets: &SocketStats) -> Option<RawInfo> {
        let open = self.open.as_ref()?;
        let kernel = open.gauge.stats();
        Some(RawInfo {
            interface: open.interface.name.clone(),
            queue: call.queue.unwrap_or(0),
            mode: match open.mode {
                XdpMode::ZeroCopy => RawMode::ZeroCopy,
                XdpMode::Copy => RawMode::Copy,
                XdpMode::Generic => RawMode::Generic,
            },
            next_hop: open.hop.map(|hop| hop.mac.to_string()),
            frames_sent: sockets.raw_sent,
            frames_received: sockets.raw_received,
            frames_refused: sockets.raw_refused,
            frames_unsent: sockets.raw_unsent,
            frames_dropped: kernel.dropped + kernel.ring_full + kernel.no_memory + kernel.refused,
        })
    }
}

/// What is looked at without the lock.
struct Look {
    call: LinkCreate,
    core: usize,
    id: LinkId,
    /// The interface that is open, as it was then.
    open: Option<Interface>,
}

/// What came of it.
enum Found {
    /// Nothing is open, or nothing is any more.
    Without(String),
    /// It is open as it was, or newly; with the next hop, if that is known, or why not.
    With(Option<Open>, Result<Hop, String>),
}

impl Control {
    /// Looks after all links' raw frames for ever.
    pub async fn keep_frames(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = Instant::now();
            let due: Vec<(String, usize)> = {
                let state = self.state().await;
                let wanted = state.links.iter().filter(|(_, link)| link.call.transport() == Transport::Xdp);
                let strands = wanted.flat_map(|(name, link)| link.strands.iter().enumerate().map(move |it| (name, it)));
                strands
                    .filter(|(_, (_, strand))| strand.frames.next.is_none_or(|next| next <= now))
                    .map(|(name, (index, _))| (name.clone(), index))
                    .collect()
            };
            for (name, index) in due {
                self.attend_frames(&name, index).await;
            }
        }
    }

    /// Opens the raw frames of a link's strand, or looks whether they are still to be had.
    pub(super) async fn attend_frames(&self, name: &str, index: usize) {
        let look = {
            let mut state = self.state().await;
            let strand = state.links.get_mut(name).and_then(|link| link.strands.get_mut(index));
            let Some(strand) = strand.filter(|strand| !strand.frames.busy) else { return };
            strand.frames.busy = true;
            let open = strand.frames.open.as_ref().map(|open| open.interface.clone());
            Look { call: strand.call.clone(), core: strand.core, id: strand.id, open }
        };
        let found = self.look(&look).await;
        let mut state = self.state().await;
        let id = look.id;
        let strand = state.links.get_mut(name).and_then(|link| link.strands.get_mut(index));
        // Else deleted meanwhile, and its sockets with it; perhaps made again.
        let Some(strand) = strand.filter(|strand| (strand.core, strand.id) == (look.core, id)) else { return };
        let frames = &mut strand.frames;
        frames.busy = false;
        let before = (frames.transport(), frames.reason.clone());
        let (open, hop, reason) = match found {
            Found::Without(reason) => (None, None, Some(reason)),
            Found::With(open, hop) => (open.or(frames.open.take()), hop.as_ref().ok().copied(), hop.err()),
        };
        let told = frames.open.as_ref().and_then(|open| open.hop);
        frames.open = open.map(|open| Open { hop, ..open });
        frames.reason = reason;
        let pause = match (&frames.open, frames.transport()) {
            (Some(_), Transport::Xdp) => LOOK_AT_GOOD,
            (Some(_), Transport::Udp) => LOOK,
            (None, _) => OPEN_AGAIN,
        };
        frames.next = Some(Instant::now() + pause);
        if before != (frames.transport(), frames.reason.clone()) {
            match (&frames.open, &frames.reason) {
                (Some(open), None) => tracing::info!(
                    "link {name} sends raw frames by queue {} of {} ({})",
                    look.call.queue.unwrap_or(0),
                    open.interface.name,
                    mode_words(open.mode)
                ),
                (_, Some(reason)) => tracing::warn!("link {name} goes by UDP instead of raw frames: {reason}"),
                (None, None) => {}
            }
        }
        if hop != told {
            self.reactor(look.core).call(move |reactor| reactor.core().0.link_set_hop(id, hop)).await;
        }
    }

    /// Sees how things are, and opens or closes what is to be.
    async fn look(&self, look: &Look) -> Found {
        let name = look.call.interface.as_deref().unwrap_or_default();
        let SocketAddr::V4(remote) = look.call.remote_addr else {
            return Found::Without(format!("raw frames are IPv4, {} is not", look.call.remote_addr));
        };
        let way = way_to(*remote.ip()).await;
        let Some(opened) = &look.open else {
            return match way {
                Ok(way) => self.open(look, name, remote, way).await,
                Err(reason) => Found::Without(reason),
            };
        };
        let gone = match Interface::look(name) {
            Ok(now) if now.index != opened.index || now.mac != opened.mac => {
                Some(format!("interface {name} is another one now"))
            }
            Ok(now) if !now.up => Some(format!("interface {name} is down; bring it up with: ip link set {name} up")),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = gone {
            let id = look.id;
            let lower = self.reactor(look.core).call(move |reactor| {
                let (core, uring, _) = reactor.core();
                core.link_lower(uring, id);
            });
            lower.await;
            return Found::Without(reason);
        }
        let hop = way.and_then(|way| hop_of(name, opened, *remote.ip(), way));
        Found::With(None, hop)
    }

    async fn open(&self, look: &Look, name: &str, remote: SocketAddrV4, way: Way) -> Found {
        let local = match look.call.local_addr {
            SocketAddr::V4(local) if !local.ip().is_unspecified() => local,
            local => match way.source {
                Some(source) => SocketAddrV4::new(source, local.port()),
                None => return Found::Without(format!("{local} is no address to send from; give this system's own")),
            },
        };
        let config = XdpConfig {
            interface: name.to_owned(),
            queue: look.call.queue.unwrap_or(0),
            local,
            payload_bytes_max: usize::from(look.call.mtu_bytes()),
            need_wakeup: look.call.need_wakeup.unwrap_or(true),
            busy_poll_us: look.call.busy_poll_us,
        };
        let region = self.region(look.core).clone();
        // All of the core's memory comes to stay, and a queue that was in use a moment ago is waited for.
        let opened = tokio::task::spawn_blocking(move || Xdp::open(&region, config)).await;
        let xdp = match opened {
            Ok(Ok(xdp)) => xdp,
            Ok(Err(error)) => return Found::Without(error.to_string()),
            Err(error) => return Found::Without(format!("opening it ended early: {error}")),
        };
        let (interface, mode, gauge) = (xdp.interface().clone(), xdp.mode(), xdp.gauge());
        let hop = hop_of(name, &interface, *remote.ip(), way);
        let id = look.id;
        match self.reactor(look.core).call(move |reactor| reactor.core().0.link_raise(id, xdp)).await {
            Ok(()) => Found::With(Some(Open { interface, mode, gauge, hop: None }), hop),
            Err(error) => Found::Without(error.to_string()),
        }
    }
}

/// The next hop, if the way there leads over the interface that is open.
fn hop_of(name: &str, interface: &Interface, to: Ipv4Addr, way: Way) -> Result<Hop, String> {
    if way.interface != interface.index {
        return Err(format!(
            "the route to {to} does not go by interface {name}; ip route get {to} shows which to give"
        ));
    }
    match way.mac {
        Some(mac) => Ok(Hop { to, mac }),
        None => Err(format!(
            "the Ethernet address of {} is not known yet; if it stays so: is it up, and on the network of {name}? ip neigh show \
             {} tells what the kernel knows",
            way.hop, way.hop
        )),
    }
}

fn mode_words(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::ZeroCopy => "without a copy",
        XdpMode::Copy => "copied once, in the driver",
        XdpMode::Generic => "copied once, behind a driver that has no XDP",
    }
}
