//! Flushing the volumes, so that a checkpoint can say that what rounds wrote is on them.

use super::{Applied, Applier};
use crate::journal::{Point, RETRY_NS};
use crate::ports::{DeviceError, LocalIo};
use crate::secondary::Downlink;
use crate::secondary::io::{Io, Op};
use crate::types::{Mono, VolumeId};
use smallvec::SmallVec;

/// A flush under way.
pub(super) struct Flushing {
    at: Point,
    left: usize,
    volumes: Volumes,
}

/// Some of a group's volumes.
#[derive(Default)]
pub(super) struct Volumes(SmallVec<[VolumeId; 16]>);

impl Volumes {
    pub(super) fn insert(&mut self, volume: VolumeId) {
        // Most often the same as the last time.
        if self.0.last() != Some(&volume) && !self.0.contains(&volume) {
            self.0.push(volume);
        }
    }

    fn extend(&mut self, volumes: impl IntoIterator<Item = VolumeId>) {
        volumes.into_iter().for_each(|volume| self.insert(volume));
    }
}

impl<S: AsRef<[u8]> + Clone + 'static> Applier<S> {
    /// Flushes what rounds wrote, for a checkpoint at what rounds reached. Returns it at once if there is nothing to
    /// flush. The caller saw that none is under way.
    pub(crate) fn flush<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        also: impl IntoIterator<Item = VolumeId>,
    ) -> Option<Applied<S>> {
        assert!(self.flushing.is_none(), "one checkpoint at a time");
        let mut volumes = std::mem::take(&mut self.dirty);
        // A round in flight keeps its volumes dirty: what it writes after this flush began is not in it.
        if let Some(round) = &self.round {
            self.dirty.extend(round.jobs.iter().flatten().filter(|job| !job.is_read).map(|job| job.volume));
        }
        volumes.extend(also);
        if volumes.0.is_empty() {
            return Some(Applied::Flushed(self.applied));
        }
        for volume in &volumes.0 {
            io.submit(Op::ApplyFlush(*volume), *volume, LocalIo::Flush);
        }
        self.flushing = Some(Flushing { at: self.applied, left: volumes.0.len(), volumes });
        None
    }

    /// A volume's flush ended.
    pub(crate) fn volume_flushed(
        &mut self,
        now: Mono,
        volume: VolumeId,
        result: Result<(), DeviceError>,
    ) -> Option<Applied<S>> {
        let flushing = self.flushing.as_mut()?;
        flushing.left -= 1;
        if let Err(error) = result {
            // The device may have forgotten what it could not make durable: all behind the checkpoint goes there again.
            self.error = Some(error);
            self.failing = Some(volume);
            self.retry_at = Some(now.after_ns(RETRY_NS));
            self.rewind = true;
            self.rewinds += 1;
        }
        if flushing.left > 0 {
            return None;
        }
        let flushing = self.flushing.take()?;
        if self.rewind {
            self.dirty.extend(flushing.volumes.0);
            return None;
        }
        Some(Applied::Flushed(flushing.at))
    }
}
