//! One core's bdevs at work.

use std::cmp::Reverse;
use std::collections::VecDeque;

use longrun_copy::ports::LocalToken;
use longrun_copy::types::{Geometry, Mono};
use longrun_hal::{Buf, Completion};
use slab::Slab;

use crate::device::{Asked, Control, ControlError, CopyRequest, Device, Env, Hardware, Parent, RequestKey, Work};
use crate::io::{BdevId, Io, IoDone, IoError, IoType, Origin};
use crate::percore::token;
use crate::stats::{BdevStats, ResetMode};

#[cfg(test)]
mod tests;

/// The end of a request that the copy engine had made.
pub(crate) struct CopyDone {
    pub(crate) token: LocalToken,
    pub(crate) result: Result<(), IoError>,
    pub(crate) buf: Option<Buf>,
}

/// A request that has not ended.
struct Request {
    device: BdevId,
    parent: Parent,
    io_type: IoType,
    bytes: u64,
    started: Mono,
}

/// Why a device can't be taken from its core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TakeError {
    /// Gone already.
    #[error("there is no such bdev on this core")]
    NoBdev,
    /// Wait for them.
    #[error("{in_flight} requests have not ended; try again when they have")]
    Busy {
        /// How many.
        in_flight: u32,
    },
    /// Not before it.
    #[error("bdev {above:?} stands on it; take that one first")]
    Base {
        /// The one above.
        above: BdevId,
    },
}

/// Why a device's size could not be looked up anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RescanError {
    /// Gone.
    #[error("there is no such bdev on this core")]
    NoBdev,
    /// In memory, or on another.
    #[error("only files and devices grow from outside")]
    NoMedium,
    /// The kernel says no.
    #[error("its medium does not say how large it is: {}", std::io::Error::from_raw_os_error(*.0))]
    Device(i32),
    /// A size that is served is not taken back.
    #[error("its medium has {blocks} blocks, it had {had}: give it back what was cut off")]
    Shrunk {
        /// What there is.
        blocks: u64,
        /// What there was.
        had: u64,
    },
}

/// All bdevs whose home is this core, and their requests. Owned by the core's reactor.
///
/// What it gives up: a request that another core sends here pays a hop, so that nothing here is ever shared.
#[derive(Default)]
pub struct BlockLayer {
    /// By id. Ids are never given twice, so a late token finds nothing rather than another device.
    devices: Vec<Option<Device>>,
    requests: Slab<Request>,
    asked: Asked,
    done: VecDeque<IoDone>,
    copy_done: VecDeque<CopyDone>,
    /// Completions of the ring for devices that are gone: a fault of ours, counted rather than trusted.
    stray_completions: u64,
}

impl BlockLayer {
    /// A core without bdevs.
    pub fn new() -> BlockLayer {
        BlockLayer::default()
    }

    /// Puts a device to work here.
    pub fn install(&mut self, device: Device) {
        let index = device.id.0 as usize;
        if self.devices.len() <= index {
            self.devices.resize_with(index + 1, || None);
        }
        assert!(self.devices[index].is_none(), "bdev {index} was installed twice");
        self.asked.wakes.extend(device.bdev.next_timeout().map(|at| Reverse((at, device.id))));
        self.devices[index] = Some(device);
    }

    /// Takes a device from this core, to drop it or to install it elsewhere (with its base, taken after it).
    pub fn take(&mut self, id: BdevId) -> Result<Device, TakeError> {
        let in_flight = self.device(id).ok_or(TakeError::NoBdev)?.in_flight;
        if in_flight > 0 {
            return Err(TakeError::Busy { in_flight });
        }
        if let Some(above) = self.devices.iter().flatten().find(|device| device.base == Some(id)) {
            return Err(TakeError::Base { above: above.id });
        }
        self.devices.get_mut(id.0 as usize).and_then(Option::take).ok_or(TakeError::NoBdev)
    }

    /// Takes a device and all below it, top first; to be installed elsewhere in any order.
    pub fn take_stack(&mut self, top: BdevId) -> Result<Vec<Device>, TakeError> {
        let mut next = Some(top);
        let mut above = None;
        // Look before the first is taken, so that a refusal leaves everything in place.
        while let Some(id) = next {
            let device = self.device(id).ok_or(TakeError::NoBdev)?;
            if device.in_flight > 0 {
                return Err(TakeError::Busy { in_flight: device.in_flight });
            }
            let others = |other: &&Device| other.base == Some(id) && Some(other.id) != above;
            if let Some(other) = self.devices.iter().flatten().find(others) {
                return Err(TakeError::Base { above: other.id });
            }
            above = Some(id);
            next = device.base;
        }
        let mut stack = Vec::new();
        let mut next = Some(top);
        while let Some(id) = next {
            let device = self.take(id)?;
            next = device.base;
            stack.push(device);
        }
        Ok(stack)
    }

    /// Starts a request. Its end, even at once, is drained later ([`BlockLayer::pop_done`]).
    pub fn submit(&mut self, hardware: &mut Hardware<'_>, to: BdevId, io: Io, origin: Origin) {
        debug_assert!(self.asked.work.is_empty(), "each call works its list off");
        self.start(hardware, to, Parent::Outside(origin), io);
        self.run(hardware);
    }

    /// An operation that a bdev had submitted to the ring ended (token class [`token::CLASS_BDEV`]).
    pub fn on_completion(&mut self, hardware: &mut Hardware<'_>, completion: Completion) {
        let (id, tag) = token::bdev_parts(completion.token);
        let Some(device) = self.devices.get_mut(id.0 as usize).and_then(Option::as_mut) else {
            self.stray_completions += 1;
            return;
        };
        let mut env = env(hardware, id, &mut self.asked);
        device.bdev.ring_done(&mut env, tag, completion);
        self.run(hardware);
    }

    /// Ends a request that a replica device had handed to the copy engine.
    pub fn answer(
        &mut self,
        hardware: &mut Hardware<'_>,
        request: RequestKey,
        result: Result<(), IoError>,
        buf: Option<Buf>,
    ) {
        debug_assert!(self.asked.work.is_empty(), "each call works its list off");
        self.end(hardware, request, result, buf);
        self.run(hardware);
    }

    /// Does what is due by now.
    pub fn tick(&mut self, hardware: &mut Hardware<'_>) {
        while let Some(Reverse((at, id))) = self.asked.wakes.peek().copied()
            && at <= hardware.now
        {
            self.asked.wakes.pop();
            // It may be on another core by now, which knows.
            if let Some(device) = self.devices.get_mut(id.0 as usize).and_then(Option::as_mut) {
                device.bdev.tick(&mut env(hardware, id, &mut self.asked));
            }
        }
        self.run(hardware);
    }

    /// Has devices do what they put off to the end of the batch. Returns whether there was anything.
    pub fn settle(&mut self, hardware: &mut Hardware<'_>) -> bool {
        let mut was_any = false;
        while let Some(id) = self.asked.unsettled.pop() {
            if let Some(device) = self.devices.get_mut(id.0 as usize).and_then(Option::as_mut) {
                device.bdev.settle(&mut env(hardware, id, &mut self.asked));
            }
            was_any = true;
        }
        self.run(hardware);
        was_any
    }

    /// Whether [`BlockLayer::settle`] has something to do.
    pub(crate) fn is_unsettled(&self) -> bool {
        !self.asked.unsettled.is_empty()
    }

    /// When [`BlockLayer::tick`] has something to do next.
    pub fn next_timeout(&self) -> Option<Mono> {
        self.asked.wakes.peek().map(|Reverse((at, _))| *at)
    }

    /// The next request of a host that ended.
    pub fn pop_done(&mut self) -> Option<IoDone> {
        self.done.pop_front()
    }

    /// The next request of the copy engine that ended.
    pub(crate) fn pop_copy_done(&mut self) -> Option<CopyDone> {
        self.copy_done.pop_front()
    }

    /// Whether anything waits for the copy engine.
    pub(crate) fn has_copy_work(&self) -> bool {
        !self.copy_done.is_empty() || !self.asked.copy.is_empty()
    }

    /// The next host request for the copy engine.
    pub(crate) fn pop_copy_request(&mut self) -> Option<CopyRequest> {
        self.asked.copy.pop_front()
    }

    /// Changes a device's behaviour.
    pub fn control(&mut self, hardware: &mut Hardware<'_>, id: BdevId, control: Control) -> Result<(), ControlError> {
        let device = self.devices.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(ControlError::NoBdev)?;
        let mut env = env(hardware, id, &mut self.asked);
        let answer = device.bdev.control(&mut env, control);
        self.run(hardware);
        answer
    }

    /// Looks how large a device's medium is now, and makes the device, with what stands on it but a pair's, as large.
    pub fn rescan(&mut self, id: BdevId) -> Result<Geometry, RescanError> {
        let device = self.devices.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(RescanError::NoBdev)?;
        let bytes = match device.bdev.measure() {
            None => return Err(RescanError::NoMedium),
            Some(Err(error)) => return Err(RescanError::Device(error.raw_os_error().unwrap_or(libc::EIO))),
            Some(Ok(bytes)) => bytes,
        };
        let blocks = bytes / u64::from(device.geometry.block_bytes);
        if blocks < device.geometry.blocks {
            return Err(RescanError::Shrunk { blocks, had: device.geometry.blocks });
        }
        let geometry = Geometry { blocks, ..device.geometry };
        self.set_blocks(id, blocks);
        Ok(geometry)
    }

    /// Gives a device another size. The caller knows that it is there.
    pub fn set_blocks(&mut self, id: BdevId, blocks: u64) {
        if let Some(device) = self.devices.get_mut(id.0 as usize).and_then(Option::as_mut) {
            device.geometry.blocks = blocks;
        }
    }

    /// A bdev's counters.
    pub fn stats(&self, id: BdevId) -> Option<BdevStats> {
        Some(self.device(id)?.stats)
    }

    /// Sets a bdev's counters to zero.
    pub fn reset_stats(&mut self, id: BdevId, mode: ResetMode) {
        if let Some(device) = self.devices.get_mut(id.0 as usize).and_then(Option::as_mut) {
            device.stats.reset(mode);
        }
    }

    /// A bdev's size, if it is on this core.
    pub fn geometry(&self, id: BdevId) -> Option<Geometry> {
        Some(self.device(id)?.geometry)
    }

    /// Requests of a bdev that have not ended.
    pub fn in_flight(&self, id: BdevId) -> u32 {
        self.device(id).map_or(0, |device| device.in_flight)
    }

    /// Completions of the ring that belong to no device here.
    pub fn stray_completions(&self) -> u64 {
        self.stray_completions
    }

    fn device(&self, id: BdevId) -> Option<&Device> {
        self.devices.get(id.0 as usize)?.as_ref()
    }

    /// Works the list off. It ends: each request is submitted once and ends once.
    fn run(&mut self, hardware: &mut Hardware<'_>) {
        while let Some(work) = self.asked.work.pop_front() {
            match work {
                Work::Submit { to, parent, io } => self.start(hardware, to, parent, io),
                Work::Done { request, result, buf } => self.end(hardware, request, result, buf),
            }
        }
    }

    fn start(&mut self, hardware: &mut Hardware<'_>, to: BdevId, parent: Parent, io: Io) {
        let Some(device) = self.devices.get_mut(to.0 as usize).and_then(Option::as_mut) else {
            return self.deliver(hardware, parent, Err(IoError::NoBdev), io.into_buf());
        };
        if let Err(error) = io.check(device.geometry) {
            device.stats.failed_ops += 1;
            return self.deliver(hardware, parent, Err(error), io.into_buf());
        }
        device.in_flight += 1;
        let blocks = io.extent().map_or(0, |extent| u64::from(extent.blocks));
        let bytes = blocks * u64::from(device.geometry.block_bytes);
        let key =
            self.requests.insert(Request { device: to, parent, io_type: io.io_type(), bytes, started: hardware.now });
        let request = RequestKey(u32::try_from(key).expect("fewer requests than memory for four thousand million"));
        let mut env = env(hardware, to, &mut self.asked);
        device.bdev.submit(&mut env, request, io);
    }

    fn end(&mut self, hardware: &mut Hardware<'_>, request: RequestKey, result: Result<(), IoError>, buf: Option<Buf>) {
        let request = self.requests.remove(request.0 as usize);
        if let Some(device) = self.devices.get_mut(request.device.0 as usize).and_then(Option::as_mut) {
            device.in_flight -= 1;
            match result {
                Ok(()) => {
                    let latency_ns = hardware.now.since_ns(request.started);
                    device.stats.succeeded(request.io_type, request.bytes, latency_ns);
                }
                Err(_) => device.stats.failed_ops += 1,
            }
        }
        self.deliver(hardware, request.parent, result, buf);
    }

    fn deliver(&mut self, hardware: &mut Hardware<'_>, parent: Parent, result: Result<(), IoError>, buf: Option<Buf>) {
        match parent {
            Parent::Outside(Origin::Host(origin)) => self.done.push_back(IoDone { origin, result, buf }),
            Parent::Outside(Origin::Copy(token)) => self.copy_done.push_back(CopyDone { token, result, buf }),
            Parent::Device { id, tag } => {
                // It can't have been taken: this request is one of those that `take` waits for.
                let Some(device) = self.devices.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
                let mut env = env(hardware, id, &mut self.asked);
                device.bdev.base_done(&mut env, tag, result, buf);
            }
        }
    }
}

fn env<'a>(hardware: &'a mut Hardware<'_>, id: BdevId, asked: &'a mut Asked) -> Env<'a> {
    Env { now: hardware.now, uring: hardware.uring, arena: hardware.arena, id, asked }
}
