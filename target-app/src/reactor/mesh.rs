//! How reactors talk to each other: one single-producer ring for each ordered pair of cores, and a wake-up for a core
//! that sleeps.
//!
//! A ring that is full holds nobody up: what does not fit waits in the sender's own queue and goes in a later turn. Those
//! queues are bounded by what they carry — block requests by the queue sizes of the connections, ends of requests by the
//! requests, words between copy engines by send buffers and parcels, the rest by connections.

use longrun_bdev::{BdevId, Io, IoError};
use longrun_copy::engine::Crossing;
use longrun_hal::ring::{Consumer, Producer, ring};
use longrun_hal::wake::{Sleeper, Waker, pair};
use longrun_hal::{Buf, Fd, Shared};
use longrun_nvmf::target::{Peer, PeerMessage, TargetConfig};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// Slots of each ring.
const RING_SLOTS: usize = 1024;

/// What one reactor tells another.
#[derive(Debug)]
pub enum CoreMessage {
    /// A block request for a bdev whose home is the receiver. Answered by [`CoreMessage::IoDone`] with the same token.
    Io {
        /// The sender's name for it.
        token: u64,
        /// The device.
        bdev: BdevId,
        /// The request.
        io: Io,
    },
    /// The end of a block request.
    IoDone {
        /// As in the request.
        token: u64,
        /// How it ended.
        result: Result<(), IoError>,
        /// A read's buffer.
        buf: Option<Buf>,
    },
    /// A host's connection, to be served by the receiver from now on.
    Accepted {
        /// The socket.
        socket: Fd,
        /// The listener's address.
        listener: SocketAddr,
    },
    /// A word from one NVMe-oF connection to another.
    Nvmf {
        /// To whom.
        to: Peer,
        /// What.
        message: PeerMessage,
    },
    /// From one copy engine to another.
    Copy(Crossing<Buf, Shared>),
    /// A new configuration of the target.
    Config(Arc<TargetConfig>),
}

/// One reactor's ends of all rings.
pub struct Mesh {
    /// By core; `None` for this core itself.
    to: Vec<Option<Outlet>>,
    from: Vec<Option<Consumer<CoreMessage>>>,
}

struct Outlet {
    ring: Producer<CoreMessage>,
    /// What did not fit.
    waiting: VecDeque<CoreMessage>,
    waker: Waker,
    /// Something was pushed since the last [`Mesh::flush`].
    dirty: bool,
}

/// Makes the meshes, sleepers and wakers of `cores` reactors.
pub fn meshes(cores: usize) -> std::io::Result<Vec<(Mesh, Sleeper, Waker)>> {
    let mut sleepers = Vec::new();
    let mut wakers = Vec::new();
    for _ in 0..cores {
        let (sleeper, waker) = pair()?;
        sleepers.push(sleeper);
        wakers.push(waker);
    }
    let mut meshes: Vec<Mesh> = (0..cores).map(|_| Mesh { to: Vec::new(), from: Vec::new() }).collect();
    for sender in 0..cores {
        for receiver in 0..cores {
            let ends = (sender != receiver).then(|| ring(RING_SLOTS));
            let (producer, consumer) = ends.unzip();
            let waker = wakers[receiver].clone();
            meshes[sender].to.push(producer.map(|ring| Outlet { ring, waiting: VecDeque::new(), waker, dirty: false }));
            meshes[receiver].from.push(consumer);
        }
    }
    Ok(meshes.into_iter().zip(sleepers).zip(wakers).map(|((mesh, sleeper), waker)| (mesh, sleeper, waker)).collect())
}

impl Mesh {
    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.to.len()
    }

    /// Gives a message to another core; it leaves at the next [`Mesh::flush`] at the latest.
    ///
    /// Panics if `core` is this core or there is none of that number: the caller has routed wrongly.
    pub fn send(&mut self, core: usize, message: CoreMessage) {
        let outlet = self.to[core].as_mut().expect("a core sends no message to itself");
        outlet.dirty = true;
        if outlet.waiting.is_empty() {
            if let Err(message) = outlet.ring.push(message) {
                outlet.waiting.push_back(message);
            }
        } else {
            outlet.waiting.push_back(message);
        }
    }

    /// Pushes what waited and wakes receivers that sleep. Once per turn. True if something still waits.
    pub fn flush(&mut self) -> bool {
        let mut waits = false;
        for outlet in self.to.iter_mut().flatten() {
            if !outlet.waiting.is_empty() {
                outlet.dirty |= outlet.ring.push_batch(&mut outlet.waiting) > 0;
                waits |= !outlet.waiting.is_empty();
            }
            if std::mem::take(&mut outlet.dirty) {
                outlet.waker.wake();
            }
        }
        waits
    }

    /// Takes up to `at_most` messages from each core, with the sender's number, in each sender's order.
    pub fn receive(&mut self, at_most: usize, batch: &mut Vec<CoreMessage>, mut each: impl FnMut(usize, CoreMessage)) {
        for (core, ring) in self.from.iter_mut().enumerate() {
            let Some(ring) = ring else { continue };
            ring.pop_batch(batch, at_most);
            for message in batch.drain(..) {
                each(core, message);
            }
        }
    }

    /// Whether nothing is to be received. The last look before sleep.
    pub fn is_empty(&mut self) -> bool {
        self.from.iter_mut().flatten().all(|ring| ring.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_beyond_a_full_ring_wait_and_arrive_in_order() {
        let mut meshes = meshes(2).unwrap();
        let count = RING_SLOTS as u64 + 500;
        for token in 0..count {
            meshes[0].0.send(1, CoreMessage::IoDone { token, result: Ok(()), buf: None });
        }
        let mut seen = Vec::new();
        let mut batch = Vec::new();
        while seen.len() < count as usize {
            meshes[1].0.receive(100, &mut batch, |core, message| match message {
                CoreMessage::IoDone { token, .. } => seen.push((core, token)),
                other => panic!("{other:?}"),
            });
            meshes[0].0.flush();
        }
        assert_eq!(seen, (0..count).map(|token| (0, token)).collect::<Vec<_>>());
        assert!(meshes[1].0.is_empty());
    }
}
