//! Hosts' requests on a view.

use super::store::{Piece, Run, pieces, runs};
use super::tasks::{Data, From, Work};
use super::{DEPTH, RETRY_NS, Stage, View, ViewOp};
use crate::ports::{DeviceError, HostError, HostIo, HostToken, LocalIo};
use crate::secondary::Downlink;
use crate::secondary::io::{Io, Op};
use crate::types::{Extent, Mono, PairId};

/// A host's write whose pieces go to the store.
pub(super) struct HostWrite {
    pub(super) token: HostToken,
    left: usize,
    result: Result<(), HostError>,
}

/// What a host's zeroes still have to cover.
pub(super) struct Zeroes {
    write: u64,
    pair: PairId,
    rest: Extent,
}

/// Granules that a host's zeroes cover in one go.
const ZERO_GRANULES: usize = if cfg!(test) { 3 } else { 1024 };

/// A host's read.
pub(super) struct HostRead<B> {
    pub(super) token: HostToken,
    pair: PairId,
    extent: Extent,
    /// Back from the volume.
    pub(super) buf: Option<B>,
    /// Reads of the store that have not ended.
    left: usize,
    result: Result<(), HostError>,
}

/// A run that is read from the store over what the volume gave.
pub(super) struct Fetch {
    read: u64,
    piece: Piece,
}

/// Without a view.
pub(super) fn refuse<P: Downlink>(ports: &mut P, host: HostIo<P::Buf, P::Shared>, token: HostToken) {
    let buf = if let HostIo::Read { buf, .. } = host { Some(buf) } else { None };
    ports.complete_host(token, Err(HostError::Device), buf);
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> View<B, S> {
    /// A host asks.
    pub(super) fn host<P: Downlink<Buf = B, Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        pair: PairId,
        host: HostIo<B, S>,
        token: HostToken,
    ) {
        let Some((volume, geometry)) = self.volumes.get(&pair).copied() else { return refuse(io.ports, host, token) };
        let extent = match &host {
            HostIo::Read { extent, .. }
            | HostIo::Write { extent, .. }
            | HostIo::WriteZeroes { extent, .. }
            | HostIo::Unmap { extent } => *extent,
            // What is written lives as long as the view: there is nothing to make durable.
            HostIo::Flush => Extent { lba: 0, blocks: 1 },
        };
        if !matches!(self.stage, Stage::Ready) || !geometry.holds(extent) {
            return refuse(io.ports, host, token);
        }
        match host {
            HostIo::Flush => io.ports.complete_host(token, Ok(()), None),
            HostIo::Read { extent, buf } => {
                let id = self.number();
                self.reads.insert(id, HostRead { token, pair, extent, buf: None, left: 0, result: Ok(()) });
                self.in_flight += 1;
                io.submit(Op::View(ViewOp::Read(id)), volume, LocalIo::Read { extent, buf });
            }
            HostIo::Write { extent, data, .. } => self.write(io, pair, extent, &data, token),
            HostIo::WriteZeroes { extent, .. } | HostIo::Unmap { extent } => {
                let write = self.number();
                // One for what is to come.
                self.writes.insert(write, HostWrite { token, left: 1, result: Ok(()) });
                self.zeroes.push_back(Zeroes { write, pair, rest: extent });
            }
        }
    }

    /// Goes on with a host's zeroes, which may be as long as the volume: one portion at a time, so that a turn stays short.
    pub(super) fn zero_on<P: Downlink<Buf = B, Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        let Some(Zeroes { write, pair, rest }) = self.zeroes.pop_front() else { return };
        let Some((_, geometry)) = self.volumes.get(&pair) else { return };
        let cut: Vec<Piece> = pieces(pair, rest, geometry.block_bytes).take(ZERO_GRANULES).collect();
        if !self.store.reserve(cut.iter().map(|piece| piece.granule), false) {
            return self.piece_done(io, write, Err(HostError::NoSpace));
        }
        if let Some(write) = self.writes.get_mut(&write) {
            write.left += cut.len();
        }
        let done: u32 = cut.iter().map(|piece| piece.run.blocks).sum();
        for piece in cut {
            self.add_task(piece.granule, Work::Zero(From::Host(write), piece.run));
        }
        if done < rest.blocks {
            let rest = Extent { lba: rest.lba + u64::from(done), blocks: rest.blocks - done };
            self.zeroes.push_front(Zeroes { write, pair, rest });
        } else {
            self.piece_done(io, write, Ok(()));
        }
        if !self.zeroes.is_empty() {
            self.retry_at = Some(io.now.mono);
        }
    }

    fn write<P: Downlink<Buf = B, Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        pair: PairId,
        extent: Extent,
        data: &S,
        token: HostToken,
    ) {
        let Some((_, geometry)) = self.volumes.get(&pair) else { return };
        let block_bytes = geometry.block_bytes;
        let cut: Vec<Piece> = pieces(pair, extent, block_bytes).collect();
        if !self.store.reserve(cut.iter().map(|piece| piece.granule), true) {
            return io.ports.complete_host(token, Err(HostError::NoSpace), None);
        }
        let id = self.number();
        self.writes.insert(id, HostWrite { token, left: cut.len(), result: Ok(()) });
        for piece in &cut {
            let data = match cut.len() {
                1 => Data::Whole(data.clone()),
                _ => Data::Part(data.clone(), piece.offset as usize * block_bytes as usize),
            };
            self.add_task(piece.granule, Work::Put(From::Host(id), piece.run, data));
        }
    }

    /// A piece of a host's write ended.
    pub(super) fn piece_done<P: Downlink<Buf = B, Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        id: u64,
        result: Result<(), HostError>,
    ) {
        let Some(write) = self.writes.get_mut(&id) else { return };
        write.left -= 1;
        write.result = write.result.and(result);
        if write.left == 0
            && let Some(write) = self.writes.remove(&id)
        {
            io.ports.complete_host(write.token, write.result, None);
        }
    }

    /// The volume was read: over it goes what the store has by now.
    pub(super) fn read_done<P: Downlink<Buf = B, Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        id: u64,
        result: Result<(), DeviceError>,
        buf: Option<B>,
    ) {
        let is_failed = self.is_failed();
        let Some(read) = self.reads.get_mut(&id) else { return };
        read.result = if is_failed { Err(HostError::Device) } else { result.map_err(HostError::from) };
        read.buf = buf;
        let block_bytes = self.volumes.get(&read.pair).map_or(512, |(_, geometry)| geometry.block_bytes);
        if let (Ok(()), Some(buf)) = (read.result, &mut read.buf) {
            for piece in pieces(read.pair, read.extent, block_bytes) {
                let kept = self.store.kept(piece.granule);
                let at = |run: Run| (piece.offset + run.first - piece.run.first) as usize * block_bytes as usize;
                for run in runs(kept.zero & piece.run.mask()) {
                    buf.as_mut()[at(run)..][..run.blocks as usize * block_bytes as usize].fill(0);
                }
                for run in runs(kept.stored & piece.run.mask()) {
                    let offset = piece.offset + run.first - piece.run.first;
                    self.fetches.push_back(Fetch { read: id, piece: Piece { run, offset, ..piece } });
                    read.left += 1;
                }
            }
        }
        self.answer_read(io, id);
    }

    fn answer_read<P: Downlink<Buf = B, Shared = S>>(&mut self, io: &mut Io<'_, P>, id: u64) {
        if self.reads.get(&id).is_some_and(|read| read.left == 0)
            && let Some(read) = self.reads.remove(&id)
        {
            io.ports.complete_host(read.token, read.result, read.buf);
        }
    }

    /// Reads from the store, as far as it goes.
    pub(super) fn fetch_on<P: Downlink<Buf = B, Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        while self.fetching.len() < DEPTH
            && let Some(fetch) = self.fetches.front()
        {
            let Piece { granule, run, .. } = fetch.piece;
            let Some((_, geometry)) = self.volumes.get(&granule.0) else { return };
            let Some(extent) = self.store.place(granule, run, geometry.block_bytes) else {
                unreachable!("what is stored has its place")
            };
            let Some(buf) = io.ports.alloc(run.blocks as usize * geometry.block_bytes as usize) else {
                self.retry_at = Some(io.now.mono.after_ns(RETRY_NS));
                return;
            };
            let id = self.number();
            self.fetching.extend(self.fetches.pop_front().map(|fetch| (id, fetch)));
            self.in_flight += 1;
            io.submit(Op::View(ViewOp::Fetch(id)), self.store.volume, LocalIo::Read { extent, buf });
        }
    }

    /// A run was read from the store.
    pub(super) fn fetched<P: Downlink<Buf = B, Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        id: u64,
        result: Result<(), DeviceError>,
        buf: Option<B>,
    ) {
        let Some(Fetch { read: id, piece }) = self.fetching.remove(&id) else { return };
        let block_bytes = self.volumes.get(&piece.granule.0).map_or(512, |(_, geometry)| geometry.block_bytes) as usize;
        let Some(read) = self.reads.get_mut(&id) else { return };
        match (result, &mut read.buf, buf) {
            (Ok(()), Some(target), Some(buf)) => {
                let bytes = piece.run.blocks as usize * block_bytes;
                let target = &mut target.as_mut()[piece.offset as usize * block_bytes..][..bytes];
                target.copy_from_slice(&buf.as_ref()[..bytes]);
            }
            (result, ..) => read.result = Err(result.err().map_or(HostError::Device, HostError::from)),
        }
        read.left -= 1;
        self.answer_read(io, id);
    }

    /// When it has to be looked at.
    pub(super) fn due(&self) -> Option<Mono> {
        let load = self.load.as_ref().filter(|_| !self.is_failed()).and_then(|load| load.walk.retry_at());
        load.into_iter().chain(self.retry_at).min()
    }
}
