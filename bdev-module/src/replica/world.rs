//! What the copy engine may ask of this core.

use std::fmt;
use std::net::SocketAddr;

use longrun_copy::engine::{Crossing, OperatorError};
use longrun_copy::ports::{
    CoreId, DeviceError, HostError, HostIo, HostToken, LocalIo, LocalToken, Memory, MetaToken, OperatorAnswer, Ports,
    Ticket,
};
use longrun_copy::role::Role;
use longrun_copy::types::{Generation, GroupId, LinkId, PairId, VolumeId};
use longrun_hal::{Buf, Shared};

use super::Sockets;
use crate::device::{Hardware, RequestKey};
use crate::io::{BdevId, Io, IoError, Origin};
use crate::known::Known;
use crate::layer::BlockLayer;

/// A metadata write on its way to the control plane. When it is durable (in the order of the outbox), the reactor calls
/// [`Core::persisted`](crate::Core::persisted).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// Under which key.
    pub key: String,
    /// The whole value.
    pub value: Vec<u8>,
    /// To be handed back.
    pub token: MetaToken,
}

/// What the engine has for the control plane and for other cores; the reactor carries it there at the end of a turn.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Metadata to be made durable, oldest first.
    pub persists: Vec<Persist>,
    /// Such writes that are over: their storage is used again.
    pub spent: Vec<Persist>,
    /// Operators' requests that ended.
    pub answers: Vec<(Ticket, Result<OperatorAnswer, OperatorError>)>,
    /// Lines for the log.
    pub lines: Vec<String>,
    /// What this core's engine says to those of others, in order.
    pub crossings: Vec<(CoreId, Crossing<Buf, Shared>)>,
    /// This system's part in a group has changed, or a volume's identity or size: the control plane shows hosts what is now.
    pub has_news: bool,
}

impl Outbox {
    /// Whether there is nothing to carry to the control plane.
    pub fn is_empty(&self) -> bool {
        self.persists.is_empty() && self.answers.is_empty() && self.lines.is_empty() && !self.has_news
    }
}

/// This core, as the engine sees it during one call.
pub struct World<'a> {
    pub(crate) hardware: Hardware<'a>,
    pub(crate) layer: &'a mut BlockLayer,
    pub(crate) sockets: &'a mut Sockets,
    pub(crate) outbox: &'a mut Outbox,
    /// What is, or is about to be, durable.
    pub(crate) metadata: &'a mut Known,
}

/// The kind of memory that engines of this crate work with: names the types, is never made.
#[derive(Debug)]
pub enum ArenaMemory {}

impl Memory for ArenaMemory {
    type Buf = Buf;
    type Shared = Shared;

    fn alloc(&mut self, _bytes: usize) -> Option<Buf> {
        match *self {}
    }

    fn freeze(&mut self, _buf: Buf, _bytes: usize) -> Shared {
        match *self {}
    }
}

impl Memory for World<'_> {
    type Buf = Buf;
    type Shared = Shared;

    fn alloc(&mut self, bytes: usize) -> Option<Buf> {
        self.hardware.arena.alloc(bytes)
    }

    fn freeze(&mut self, mut buf: Buf, bytes: usize) -> Shared {
        buf.truncate(bytes);
        buf.freeze()
    }
}

impl Ports for World<'_> {
    fn local(&mut self, volume: VolumeId, io: LocalIo<Buf, Shared>, token: LocalToken) {
        self.layer.submit(&mut self.hardware, bdev_of(volume), io_of_local(io), Origin::Copy(token));
    }

    fn complete_host(&mut self, token: HostToken, outcome: Result<(), HostError>, buf: Option<Buf>) {
        let result = outcome.map_err(io_error);
        self.layer.answer(&mut self.hardware, request_of(token), result, buf);
    }

    fn transmit(&mut self, link: LinkId, to: SocketAddr, train: Buf, bytes: usize, segment_bytes: usize) {
        let now = self.hardware.now;
        self.sockets.transmit(now, self.hardware.uring, link, to, train, bytes, segment_bytes);
    }

    fn cross(&mut self, to: CoreId, crossing: Crossing<Buf, Shared>) {
        self.outbox.crossings.push((to, crossing));
    }

    fn persist(&mut self, key: &str, value: &[u8], token: MetaToken) {
        self.metadata.write(key, value);
        let mut persist =
            self.outbox.spent.pop().unwrap_or_else(|| Persist { key: String::new(), value: Vec::new(), token });
        persist.token = token;
        key.clone_into(&mut persist.key);
        value.clone_into(&mut persist.value);
        self.outbox.persists.push(persist);
    }

    fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.metadata.get(key).map(<[u8]>::to_vec)
    }

    fn answer_operator(&mut self, ticket: Ticket, answer: Result<OperatorAnswer, OperatorError>) {
        self.outbox.answers.push((ticket, answer));
    }

    fn role_changed(&mut self, _: GroupId, _: Role, _: Generation) {
        self.outbox.has_news = true;
    }

    fn volume_changed(&mut self, _: PairId) {
        self.outbox.has_news = true;
    }

    fn volume_blocks(&self, volume: VolumeId) -> Option<u64> {
        self.layer.geometry(bdev_of(volume)).map(|geometry| geometry.blocks)
    }

    fn log(&mut self, line: fmt::Arguments<'_>) {
        self.outbox.lines.push(line.to_string());
    }
}

/// A volume that the engine holds is the bdev of the same number.
pub(crate) fn volume_of(bdev: BdevId) -> VolumeId {
    VolumeId(bdev.0)
}

fn bdev_of(volume: VolumeId) -> BdevId {
    BdevId(volume.0)
}

/// A host's request keeps its number through the engine.
pub(crate) fn host_token(request: RequestKey) -> HostToken {
    HostToken(u64::from(request.0))
}

fn request_of(token: HostToken) -> RequestKey {
    RequestKey(u32::try_from(token.0).expect("made by host_token"))
}

/// A request in the engine's words.
pub(crate) fn host_io(io: Io) -> HostIo<Buf, Shared> {
    match io {
        Io::Read { extent, buf } => HostIo::Read { extent, buf },
        Io::Write { extent, data, fua } => HostIo::Write { extent, data, fua },
        Io::WriteZeroes { extent, fua } => HostIo::WriteZeroes { extent, fua },
        Io::Unmap { extent } => HostIo::Unmap { extent },
        Io::Flush => HostIo::Flush,
    }
}

fn io_of_local(io: LocalIo<Buf, Shared>) -> Io {
    match io {
        LocalIo::Read { extent, buf } => Io::Read { extent, buf },
        LocalIo::Write { extent, data, fua } => Io::Write { extent, data, fua },
        LocalIo::WriteZeroes { extent, fua } => Io::WriteZeroes { extent, fua },
        LocalIo::Unmap { extent } => Io::Unmap { extent },
        LocalIo::Flush => Io::Flush,
    }
}

/// A local request's end in the engine's words.
pub(crate) fn local_result(result: Result<(), IoError>) -> Result<(), DeviceError> {
    result.map_err(|error| DeviceError { errno: error.errno() })
}

fn io_error(error: HostError) -> IoError {
    match error {
        HostError::Device => IoError::Device { errno: libc::EIO },
        HostError::NoSpace => IoError::Device { errno: libc::ENOSPC },
        HostError::Secondary => IoError::Secondary,
        HostError::Fenced => IoError::Fenced,
        HostError::Transition => IoError::Transition,
        // An error that is new to us: the host may try again, which is what an abandoned request allows.
        _ => IoError::Aborted,
    }
}
