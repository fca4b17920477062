//! A takeover in the middle of a resync that went beyond the journal: what the overlay saved goes back to the volumes.
//!
//! Every granule is in the overlay once, with what the last image held, so the order does not matter and a crash does it
//! all again. Only when all volumes are flushed does the group forget that there was a unit.

use super::Downlink;
use super::group::{After, Group, Phase};
use super::intake::Effects;
use super::io::{Io, Op};
use super::overlay::State;
use crate::journal::RETRY_NS;
use crate::journal::format::Expect;
use crate::journal::walk::{Next, Walk};
use crate::ports::{DeviceError, LocalIo};
use crate::takeover::TakeoverStep;
use crate::types::{Extent, Mono, VolumeId};
use std::collections::HashMap;

/// Writes to volumes in flight at most.
const DEPTH: usize = 16;

/// One granule on its way back.
struct Back<S> {
    volume: VolumeId,
    extent: Extent,
    /// `None`: zeroes.
    payload: Option<S>,
}

/// The overlay going back.
pub(crate) struct Restore<S> {
    walk: Walk<Op>,
    until: u64,
    waiting: Vec<Back<S>>,
    in_flight: HashMap<u64, Back<S>>,
    made: u64,
    /// Volumes that are being flushed, when all is written.
    flushing: usize,
    is_flushed: bool,
    error: Option<DeviceError>,
    retry_at: Option<Mono>,
    /// Where a block is not what it was.
    damaged: Option<u64>,
    /// A flush failed: from the beginning.
    is_stale: bool,
}

impl<S> Restore<S> {
    /// Why it does not go on, if so.
    pub(crate) fn reason(&self) -> Option<String> {
        let read =
            self.walk.error().map(|error| format!("the overlay cannot be read ({error}); tried again every second"));
        let write = || {
            let error = self.error?;
            Some(format!("a secondary volume reports {error}; tried again every second"))
        };
        let damaged = || {
            let at = self.damaged?;
            Some(format!("the overlay is damaged at block {at}: the image before the resync is lost; check the device"))
        };
        read.or_else(write).or_else(damaged)
    }

    pub(crate) fn retry_at(&self) -> Option<Mono> {
        self.retry_at.into_iter().chain(self.walk.retry_at()).min()
    }
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// Goes on with the restoring.
    pub(crate) fn restore_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        let is_checkpointing = self.is_checkpointing();
        if let State::Open(log) = &mut self.overlay.state
            && log.fault().is_some()
        {
            // What it could not take was never overwritten.
            log.abandon();
        }
        let (Phase::Ready(ready), State::Open(log), Some(meta)) =
            (&self.phase, &self.overlay.state, &self.meta.overlay)
        else {
            return;
        };
        // What of the unit was under way at the seal ends first. *A granule was still being read for the overlay when the image
        // was back: the takeover panicked.*
        if !ready.applier.is_resting()
            || is_checkpointing
            || log.is_busy()
            || self.overlay.is_reading()
            || self.takeover_step() != Some(TakeoverStep::Restore)
        {
            return;
        }
        let Some(area) = self.overlay.area() else { return };
        let until = log.committed_end();
        let is_due = |restore: &Restore<S>| restore.is_stale && restore.retry_at.is_none_or(|at| at <= io.now.mono);
        self.restore.take_if(|restore| is_due(restore));
        let restore = self.restore.get_or_insert_with(|| {
            let expect = Expect {
                journal_id: meta.id,
                position: meta.tail.position,
                previous: meta.tail.previous,
                epoch_min: 0,
                epoch_max: meta.recovery_epoch,
            };
            Restore {
                walk: Walk::new(area, Op::RestoreRead, expect, until),
                until,
                waiting: Vec::new(),
                in_flight: HashMap::new(),
                made: 0,
                flushing: 0,
                is_flushed: false,
                error: None,
                retry_at: None,
                damaged: None,
                is_stale: false,
            }
        });
        if restore.is_flushed
            || restore.is_stale
            || restore.flushing > 0
            || restore.retry_at.is_some_and(|at| at > io.now.mono)
        {
            return;
        }
        restore.retry_at = None;
        loop {
            while restore.in_flight.len() < DEPTH
                && let Some(back) = restore.waiting.pop()
            {
                restore.made += 1;
                let Back { volume, extent, payload } = &back;
                let write = match payload {
                    Some(data) => LocalIo::Write { extent: *extent, data: data.clone(), fua: false },
                    None => LocalIo::WriteZeroes { extent: *extent, fua: false },
                };
                io.submit(Op::Restore(restore.made), *volume, write);
                restore.in_flight.insert(restore.made, back);
            }
            if !restore.waiting.is_empty() {
                return;
            }
            if restore.walk.expect().position >= restore.until {
                break;
            }
            let info = match restore.walk.next(io) {
                Next::Wait => return,
                Next::Block(info) => info,
                Next::End => {
                    restore.damaged = Some(restore.walk.expect().position);
                    return;
                }
            };
            let mut backs = Vec::new();
            let mut is_short = false;
            let volumes = &self.volumes;
            let whole = restore.walk.entries(&info, |entry, payload| {
                let Some((volume, _)) = volumes.get(&entry.head.pair) else { return };
                let payload = if entry.head.kind.has_payload() {
                    let Some(mut buf) = io.ports.alloc(payload.len()) else {
                        is_short = true;
                        return;
                    };
                    buf.as_mut()[..payload.len()].copy_from_slice(payload);
                    Some(io.ports.freeze(buf, payload.len()))
                } else {
                    None
                };
                backs.push(Back { volume: *volume, extent: entry.head.extent, payload });
            });
            if !whole {
                restore.damaged = Some(restore.walk.expect().position);
                return;
            }
            // Without memory: again in a later turn.
            if is_short {
                return;
            }
            effects.is_busy = true;
            restore.walk.advance(&info);
            restore.waiting = backs;
        }
        if restore.in_flight.is_empty() {
            let volumes: Vec<VolumeId> = self.volumes.values().map(|(volume, _)| *volume).collect();
            restore.flushing = volumes.len();
            for volume in volumes {
                io.submit(Op::RestoreFlush, volume, LocalIo::Flush);
            }
        }
    }

    /// A read of the overlay ended.
    pub(crate) fn restore_read(&mut self, now: Mono, result: Result<(), DeviceError>, data: Option<&[u8]>) {
        if let Some(restore) = &mut self.restore {
            restore.walk.done(now, result, data);
        }
    }

    /// A granule was written back, or not.
    pub(crate) fn restore_written(&mut self, now: Mono, id: u64, result: Result<(), DeviceError>) {
        let Some(restore) = &mut self.restore else { return };
        let Some(back) = restore.in_flight.remove(&id) else { return };
        if let Err(error) = result {
            restore.error = Some(error);
            restore.retry_at = Some(now.after_ns(RETRY_NS));
            restore.waiting.push(back);
        }
    }

    /// A volume was flushed behind it, or not: then all goes back again, for the device may have forgotten any of it.
    pub(crate) fn restore_flushed<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        result: Result<(), DeviceError>,
    ) {
        let Some(restore) = &mut self.restore else { return };
        restore.flushing -= 1;
        if let Err(error) = result {
            restore.error = Some(error);
            restore.retry_at = Some(io.now.mono.after_ns(RETRY_NS));
        } else if restore.flushing == 0 && restore.retry_at.is_none() {
            restore.is_flushed = true;
            self.meta.unit = None;
            if let (State::Open(log), Some(meta)) = (&self.overlay.state, &mut self.meta.overlay) {
                meta.tail = log.point();
            }
            self.persist(io, vec![After::Restored]);
            return;
        }
        let Some(restore) = &mut self.restore else { return };
        if restore.flushing == 0 {
            // From the beginning.
            restore.is_stale = true;
        }
    }

    /// The group has durably forgotten the unit.
    pub(crate) fn restored<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        io.ports.log(format_args!("group \"{}\": the image before the resync is back", self.meta.name));
        self.restore = None;
        self.hold = None;
        self.overlay.clear();
        if let Some(takeover) = &mut self.takeover {
            takeover.step = TakeoverStep::Apply;
        }
    }
}
