//! Everything of this crate that one reactor holds.

pub mod token;

use std::collections::BTreeMap;

use longrun_copy::account::{Step, within};
use longrun_copy::engine::{Crossing, Engine, EngineConfig};
use longrun_copy::link::{LinkConfig, LinkConfigError, Spacing};
use longrun_copy::ports::{Event, MetaToken};
use longrun_copy::types::{Geometry, LinkId, Mono, Now, VolumeId};
use longrun_hal::net::UdpEndpoint;
use longrun_hal::xdp::{Xdp, XdpError};
use longrun_hal::{Arena, Buf, Completion, Shared, Uring};

use crate::device::{Control, ControlError, Device, Face, Hardware};
use crate::io::{BdevId, Io, IoDone, Origin};
use crate::known::Known;
use crate::layer::{BlockLayer, RescanError, TakeError};
use crate::replica::{self, ArenaMemory, Hop, Outbox, Parcel, SocketStats, Sockets, Wire, World};
use crate::stats::{BdevStats, ResetMode};

#[cfg(test)]
mod tests;

/// Events that the engine gets per turn at most, beside received trains: a device in memory ends at once what the engine
/// asks of it, so that without a bound a scan of one would be one turn.
const EVENTS_PER_TURN: u32 = 1024;
/// Trains taken from wires per turn at most, so that a turn stays bounded.
const WIRE_TRAINS_PER_TURN: usize = 256;

/// One core's bdevs, copy engine and links.
///
/// The reactor calls, each turn: [`Core::on_completion`] for what its ring brought ([`token::is_ours`]), [`Core::submit`] for
/// hosts' requests, [`Core::turn`] once at the end,
/// [`Core::settle`] after requests that came later, [`Core::drain`] for requests that ended, [`Core::outbox`] for the control
/// plane; and sleeps no longer than to [`Core::next_timeout`]. `now` is read once per turn, after the turn's batch was
/// taken.
pub struct Core {
    arena: Arena,
    layer: BlockLayer,
    engine: Engine<ArenaMemory>,
    sockets: Sockets,
    outbox: Outbox,
    metadata: Known,
    /// What is left of [`EVENTS_PER_TURN`].
    events_left: u32,
    /// The engine heard something since its last end of a turn, so it may have something to send.
    unfinished: bool,
}

impl Core {
    /// A core without bdevs. `metadata` is what all cores had made durable before ([`Outbox::persists`]).
    pub fn new(arena: Arena, engine: EngineConfig, metadata: BTreeMap<String, Vec<u8>>) -> Core {
        Core {
            arena,
            layer: BlockLayer::new(),
            engine: Engine::new(engine),
            sockets: Sockets::default(),
            outbox: Outbox::default(),
            metadata: Known::at_start(metadata),
            events_left: EVENTS_PER_TURN,
            unfinished: false,
        }
    }

    /// The core's memory.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Puts a device to work here.
    pub fn install(&mut self, device: Device) {
        self.layer.install(device);
    }

    /// Takes a device from here; `Busy` until its requests have ended.
    pub fn take(&mut self, bdev: BdevId) -> Result<Device, TakeError> {
        self.layer.take(bdev)
    }

    /// Takes a device and all below it, to be installed on another core.
    pub fn take_stack(&mut self, top: BdevId) -> Result<Vec<Device>, TakeError> {
        self.layer.take_stack(top)
    }

    /// A bdev's counters; what `reset` says is set to zero afterwards.
    pub fn stats(&mut self, bdev: BdevId, reset: ResetMode) -> Option<BdevStats> {
        let stats = self.layer.stats(bdev);
        self.layer.reset_stats(bdev, reset);
        stats
    }

    /// See [`BlockLayer::rescan`].
    pub fn rescan(&mut self, bdev: BdevId) -> Result<Geometry, RescanError> {
        self.layer.rescan(bdev)
    }

    /// Gives a device another size, which what it stands on has.
    pub fn set_blocks(&mut self, bdev: BdevId, blocks: u64) {
        self.layer.set_blocks(bdev, blocks);
    }

    /// Requests of a bdev that have not ended.
    pub fn in_flight(&self, bdev: BdevId) -> u32 {
        self.layer.in_flight(bdev)
    }

    /// A bdev as the engine's volume: its number there, and its size. `None` if it is not on this core. The caller has
    /// claimed it in the catalog.
    pub fn volume(&self, bdev: BdevId) -> Option<(VolumeId, Geometry)> {
        Some((replica::volume_of(bdev), self.layer.geometry(bdev)?))
    }

    /// Changes a device's behaviour.
    pub fn control(&mut self, now: Now, uring: &mut Uring, bdev: BdevId, control: Control) -> Result<(), ControlError> {
        let mut hardware = Hardware { now: now.mono, uring, arena: &self.arena };
        let answer = self.layer.control(&mut hardware, bdev, control);
        self.pump(now, uring);
        answer
    }

    /// Starts a host's request, one of a batch that ends with [`Core::settle`] or [`Core::turn`]; its end comes by
    /// [`Core::drain`], with `origin`.
    pub fn submit(&mut self, now: Now, uring: &mut Uring, bdev: BdevId, io: Io, origin: u64) {
        let mut hardware = Hardware { now: now.mono, uring, arena: &self.arena };
        self.layer.submit(&mut hardware, bdev, io, Origin::Host(origin));
        self.pump(now, uring);
    }

    /// Something on the ring ended whose token [`token::is_ours`].
    pub fn on_completion(&mut self, now: Now, uring: &mut Uring, completion: Completion) {
        match token::class(completion.token) {
            token::CLASS_BDEV => {
                let mut hardware = Hardware { now: now.mono, uring, arena: &self.arena };
                self.layer.on_completion(&mut hardware, completion);
            }
            token::CLASS_LINK_RECEIVE => {
                if let Some(mut train) = self.sockets.received(completion, now.mono) {
                    let (link, from, segment_bytes) = (train.link, train.from, train.segment_bytes);
                    let bytes = &mut train.buf[..train.bytes];
                    self.with_engine(now, uring, |engine, world| {
                        engine.handle(now, Event::Datagrams { link, from, train: bytes, segment_bytes }, world);
                    });
                    self.sockets.rearm(uring, train);
                }
            }
            token::CLASS_LINK_SEND => self.sockets.sent(&completion),
            token::CLASS_RAW_READABLE | token::CLASS_RAW_NUDGE | token::CLASS_RAW_RECEIVE_NUDGE => {
                self.sockets.raw_completed(&completion);
            }
            class => debug_assert!(false, "token of class {class} is not of this crate"),
        }
        self.pump(now, uring);
    }

    /// A metadata write of [`Outbox::persists`] is durable, and so are all before it.
    pub fn persisted(&mut self, now: Now, uring: &mut Uring, token: MetaToken) {
        self.with_engine(now, uring, |engine, world| engine.handle(now, Event::Persisted { token }, world));
        self.pump(now, uring);
    }

    /// What this core has written to the metadata since this was last asked, for the other cores' [`Core::learn_metadata`]:
    /// before a group may be at home on another core than the one of its name before it.
    pub fn metadata_news(&mut self) -> Vec<(String, Vec<u8>)> {
        self.metadata.take_news()
    }

    /// What another core has written to the metadata.
    pub fn learn_metadata(&mut self, news: &[(String, Vec<u8>)]) {
        self.metadata.learn(news);
    }

    /// Another core's engine has said something ([`Outbox::crossings`]).
    pub fn crossed(&mut self, now: Now, uring: &mut Uring, crossing: Crossing<Buf, Shared>) {
        self.with_engine(now, uring, |engine, world| engine.handle(now, Event::Crossed(crossing), world));
        self.pump(now, uring);
    }

    /// Sees what raw frames have come; true if any. [`Core::turn`] works on these. To be called when a turn's batch is
    /// taken, before its `now` is read.
    pub fn gather(&mut self) -> bool {
        self.sockets.gather()
    }

    /// The end of a turn: raw frames, timers, and what the engine has to send.
    pub fn turn(&mut self, now: Now, uring: &mut Uring) {
        self.events_left = EVENTS_PER_TURN;
        let mut hardware = Hardware { now: now.mono, uring, arena: &self.arena };
        self.layer.tick(&mut hardware);
        self.sockets.tick(uring, &self.arena, now.mono);
        self.receive_frames(now, uring);
        self.settle(now, uring);
        self.with_engine(now, uring, |engine, world| engine.handle(now, Event::Turn, world));
        self.unfinished = false;
        self.settle(now, uring);
        self.sockets.push(uring);
    }

    /// When [`Core::turn`] has something to do next, even if nothing else happens: a time that has passed if at once.
    pub fn next_timeout(&self, now: Now) -> Option<Mono> {
        if self.unfinished || self.layer.has_copy_work() || self.layer.is_unsettled() {
            return Some(now.mono);
        }
        [self.layer.next_timeout(), self.sockets.next_timeout(), self.engine.next_timeout(now)]
            .into_iter()
            .flatten()
            .min()
    }

    /// The end of a batch of requests: does what devices have put off to here, and all that follows from it.
    pub fn settle(&mut self, now: Now, uring: &mut Uring) {
        self.pump(now, uring);
        loop {
            let step = within(Step::Local);
            let was_any = self.layer.settle(&mut Hardware { now: now.mono, uring: &mut *uring, arena: &self.arena });
            drop(step);
            if !was_any {
                return;
            }
            self.pump(now, uring);
        }
    }

    /// Hosts' requests that ended, but for what is put off to [`Core::settle`].
    pub fn drain(&mut self, out: &mut Vec<IoDone>) {
        while let Some(done) = self.layer.pop_done() {
            out.push(done);
        }
    }

    /// What the engine has for the control plane; take it all.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// The engine, for the operator's calls on groups and pairs, and the world that they want:
    /// `core.operate(now, uring, |engine, world| { let (primary, mut world) = engine.primary(world); .. })`.
    pub fn operate<R>(
        &mut self,
        now: Now,
        uring: &mut Uring,
        call: impl FnOnce(&mut Engine<ArenaMemory>, &mut World<'_>) -> R,
    ) -> R {
        let answer = self.with_engine(now, uring, call);
        self.pump(now, uring);
        answer
    }

    /// The engine, to look at.
    pub fn engine(&self) -> &Engine<ArenaMemory> {
        &self.engine
    }

    /// Makes a link that uses this socket, which the control plane has bound.
    pub fn link_create(
        &mut self,
        uring: &mut Uring,
        config: LinkConfig,
        endpoint: UdpEndpoint,
    ) -> Result<LinkId, LinkConfigError> {
        let link = self.engine.link_create(config)?;
        self.sockets.open(uring, &self.arena, link, endpoint);
        self.unfinished = true;
        Ok(link)
    }

    /// Makes a link that has a wire for a socket: for measurements and tests.
    pub fn link_wire(&mut self, config: LinkConfig, wire: Wire) -> Result<LinkId, LinkConfigError> {
        let link = self.engine.link_create(config)?;
        self.sockets.join(link, wire);
        self.unfinished = true;
        Ok(link)
    }

    /// Lets a link send and receive raw frames beside its socket, from now on.
    ///
    /// # Errors
    /// There is no memory to receive into; the link goes on without.
    pub fn link_raise(&mut self, link: LinkId, xdp: Xdp) -> Result<(), XdpError> {
        let spacing = xdp.spacing();
        self.sockets.raise(&self.arena, link, xdp)?;
        let longrun_hal::xdp::Spacing { headroom_bytes, stride_bytes } = spacing;
        self.engine.link_set_spacing(link, Some(Spacing { headroom_bytes, stride_bytes }));
        self.unfinished = true;
        Ok(())
    }

    /// Tells a link's raw frames the next hop towards its peer. Without one they wait, and datagrams go by the socket.
    pub fn link_set_hop(&mut self, link: LinkId, hop: Option<Hop>) {
        self.sockets.set_hop(link, hop);
    }

    /// Takes raw frames from a link: all goes by its socket again.
    pub fn link_lower(&mut self, uring: &mut Uring, link: LinkId) {
        self.sockets.lower(uring, link);
        self.engine.link_set_spacing(link, None);
    }

    /// Ends a link that no group uses, and closes its socket.
    pub fn link_delete(&mut self, now: Now, uring: &mut Uring, link: LinkId) {
        // The last word goes the kernel's way: raw frames would not leave before their socket closes.
        self.sockets.set_hop(link, None);
        self.with_engine(now, uring, |engine, world| engine.link_delete(now, link, world));
        self.sockets.close(uring, link);
    }

    /// What a link's socket counted.
    pub fn socket_stats(&self, link: LinkId) -> Option<SocketStats> {
        self.sockets.stats(link)
    }

    fn with_engine<R>(
        &mut self,
        now: Now,
        uring: &mut Uring,
        call: impl FnOnce(&mut Engine<ArenaMemory>, &mut World<'_>) -> R,
    ) -> R {
        self.unfinished = true;
        let mut world = World {
            hardware: Hardware { now: now.mono, uring, arena: &self.arena },
            layer: &mut self.layer,
            sockets: &mut self.sockets,
            outbox: &mut self.outbox,
            metadata: &mut self.metadata,
        };
        call(&mut self.engine, &mut world)
    }

    /// Hands the engine the trains of wires, and the datagrams of raw frames that were there when the turn's batch was taken.
    fn receive_frames(&mut self, now: Now, uring: &mut Uring) {
        for _ in 0..WIRE_TRAINS_PER_TURN {
            let Some((link, from, parcel)) = self.sockets.next_parcel() else { break };
            let Parcel { mut train, bytes, segment_bytes } = parcel;
            let train = &mut train[..bytes];
            self.with_engine(now, uring, |engine, world| {
                engine.handle(now, Event::Datagrams { link, from, train, segment_bytes }, world);
            });
        }
        let mut from = 0;
        while let Some((key, link, mut raw)) = self.sockets.lend(from) {
            let (received, refused) = raw.receive(|from, payload| {
                let segment_bytes = payload.len();
                let event = Event::Datagrams { link, from: from.into(), train: payload, segment_bytes };
                self.with_engine(now, uring, |engine, world| engine.handle(now, event, world));
            });
            self.sockets.give_back(key, raw, received, refused);
            from = key + 1;
        }
    }

    /// Carries events between layer and engine until there are none, or the turn has had enough.
    fn pump(&mut self, now: Now, uring: &mut Uring) {
        while self.events_left > 0 {
            // Ends first: they free what requests wait for.
            if let Some(done) = self.layer.pop_copy_done() {
                let result = replica::local_result(done.result);
                let event = Event::LocalDone { token: done.token, result, buf: done.buf };
                self.with_engine(now, uring, |engine, world| engine.handle(now, event, world));
            } else if let Some(asked) = self.layer.pop_copy_request() {
                let (pair, token) = (asked.pair, replica::host_token(asked.request));
                let io = replica::host_io(asked.io);
                let event = match asked.face {
                    Face::Replica => Event::Host { pair, io, token },
                    Face::View => Event::View { pair, io, token },
                };
                self.with_engine(now, uring, |engine, world| engine.handle(now, event, world));
            } else {
                return;
            }
            self.events_left -= 1;
        }
    }
}
