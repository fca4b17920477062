//! After a local write failed whose record has left: a number's content is immutable, so the secondary will have what
//! the disk may not. What the disk now holds is read back and sent under a new stamp, the range stays locked meanwhile,
//! then the host learns of the error (design 4a).
//!
//! One read-back per failed write, nothing is tried again: a volume on which every write fails costs a read per write.

use super::host::Gate;
use super::request::Stage;
use super::suspend::FirstMissed;
use super::{Primary, Up, Wait};
use crate::ports::{DeviceError, LocalIo, Memory};
use crate::types::{Extent, Mono, Now, PairState, Record, RecordHead, RecordKind};

/// Bytes of one read-back. A failed write is nearly always one piece; a failed unmap may be many.
pub(super) const PIECE_BYTES_MAX: u64 = 1 << 20;

impl<M: Memory> Primary<M> {
    pub(super) fn begin_repair(&mut self, now: Now, key: usize, error: DeviceError, ports: &mut impl Up<M>) {
        let pair = self.pairs.get_mut(&self.requests[key].pair).expect("its gate was looked at");
        pair.repairs += 1;
        if pair.repairs == 1 {
            ports.log(format_args!(
                "pair {}: a local write failed ({error}) after it was sent; what the disk holds is sent after it, the \
                 host gets the error. Later failures of this pair are counted only",
                pair.config.name
            ));
        }
        self.read_piece(now, key, ports);
    }

    /// Reads the next piece back, if there is memory.
    pub(super) fn read_piece(&mut self, now: Now, key: usize, ports: &mut impl Up<M>) {
        let Some(request) = self.requests.get(key) else { return };
        let Stage::Repairing(repair) = &request.stage else { return };
        let id = request.pair;
        if !matches!(self.gate(id), Gate::Stamp(_)) {
            return self.end_repair(now, key, ports);
        }
        let config = &self.pairs[&id].config;
        let block_bytes = u64::from(config.geometry.block_bytes);
        let blocks = (PIECE_BYTES_MAX / block_bytes).min(request.extent.end() - repair.next_lba) as u32;
        let extent = Extent { lba: repair.next_lba, blocks };
        match ports.alloc((u64::from(blocks) * block_bytes) as usize) {
            Some(buf) => {
                let volume = config.volume;
                let token = self.token(Wait::Repair(key));
                ports.local(volume, LocalIo::Read { extent, buf }, token);
            }
            None if now.mono.since_ns(repair.since) > self.config.open_wait_ns => {
                self.break_for(
                    now,
                    key,
                    "there was no memory to read back what a failed write left on the disk",
                    ports,
                );
            }
            None => self.out_of_memory.push_back(key),
        }
    }

    /// A piece was read, or cannot be.
    pub(super) fn repair_read(
        &mut self,
        now: Now,
        key: usize,
        result: Result<(), DeviceError>,
        buf: Option<M::Buf>,
        ports: &mut impl Up<M>,
    ) {
        let Some(request) = self.requests.get_mut(key) else { return };
        let Stage::Repairing(repair) = &mut request.stage else { return };
        let block_bytes = u64::from(self.pairs[&request.pair].config.geometry.block_bytes);
        match (result, buf) {
            (Ok(()), Some(buf)) => {
                let blocks = (PIECE_BYTES_MAX / block_bytes).min(request.extent.end() - repair.next_lba) as u32;
                let bytes = (u64::from(blocks) * block_bytes) as usize;
                repair.piece = Some((Extent { lba: repair.next_lba, blocks }, ports.freeze(buf, bytes)));
                self.send_repair(now, key, ports);
            }
            _ => self.break_for(now, key, "a local write failed and what it left on the disk cannot be read", ports),
        }
    }

    /// Stamps and sends the piece that was read.
    pub(super) fn send_repair(&mut self, now: Now, key: usize, ports: &mut impl Up<M>) {
        let request = &self.requests[key];
        let Stage::Repairing(repair) = &request.stage else { return };
        let Some((extent, data)) = &repair.piece else { return };
        let (id, extent, payload_bytes) = (request.pair, *extent, data.as_ref().len());
        let Gate::Stamp(route) = self.gate(id) else { return self.end_repair(now, key, ports) };
        if !self.has_room(now, id, RecordKind::Repair, payload_bytes, ports) {
            return self.end_repair(now, key, ports);
        }
        let Ok(stamps) = self.stamper.stamp(now, &[route.numbering]) else {
            return self.out_of_lease.push_back(key);
        };
        let request = &mut self.requests[key];
        let end = request.extent.end();
        let Stage::Repairing(repair) = &mut request.stage else { return };
        let payload = repair.piece.take().map(|(_, data)| data);
        (repair.next_lba, repair.stamped) = (extent.end(), stamps[0].time);
        let is_whole = repair.next_lba == end;
        let payload_bytes = payload_bytes as u32;
        let head = RecordHead { stamp: stamps[0], pair: id, kind: RecordKind::Repair, extent, payload_bytes };
        self.push(now, route, Record { head, payload }, ports);
        match is_whole {
            true => self.end_repair(now, key, ports),
            false => self.read_piece(now, key, ports),
        }
    }

    /// The host learns of the error, once the timeline is past the last repair.
    fn end_repair(&mut self, now: Now, key: usize, ports: &mut impl Up<M>) {
        let Stage::Repairing(repair) = &self.requests[key].stage else { return };
        let (error, stamped) = (repair.error, repair.stamped);
        self.leave_order(now, key);
        self.finish(now, key, Err(error), None, Some(stamped), ports);
    }

    /// What the disk holds stays unknown: the stream ends at the write's stamp.
    fn break_for(&mut self, now: Now, key: usize, why: &str, ports: &mut impl Up<M>) {
        let id = self.requests[key].pair;
        if matches!(self.gate(id), Gate::Stamp(_)) {
            let config = &self.pairs[&id].config;
            let reason = format!("pair {}: {why}; check the volume's device", config.name);
            let group = config.group;
            self.suspend_for_now(now, group, PairState::SuspendedError, reason, FirstMissed::Known, ports);
        }
        self.end_repair(now, key, ports);
    }

    /// Tries again what waited for memory.
    pub(super) fn retry_memory(&mut self, now: Now, ports: &mut impl Up<M>) {
        for _ in 0..self.out_of_memory.len() {
            let Some(key) = self.out_of_memory.pop_front() else { return };
            self.read_piece(now, key, ports);
        }
    }

    /// When the first of these has waited long enough.
    pub(super) fn memory_retry_at(&self, now: Now) -> Option<Mono> {
        (!self.out_of_memory.is_empty()).then(|| now.mono.after_ns(1_000_000))
    }
}
