//! What a group must know after a crash beside its journal: one value under `secondary/group/<id>`, written whole, so
//! that every change is one atomic step. An empty value is a group that was deleted.

use super::codec::{CodecError, Reader, Writer};
use crate::message::Content;
use crate::takeover::{LossCertificate, StreamLoss, VolumeIdentity};
use crate::types::{Epoch, Extent, Generation, Geometry, GroupId, PairId, Scope, Seq, StreamId, SystemId, Time};
use std::ops::RangeInclusive;

/// Version of the value's format.
const VERSION: u32 = 2;

/// The key of a group's value.
pub(crate) fn key_of(group: GroupId) -> String {
    format!("secondary/group/{:016x}", group.0)
}

/// A group's durable life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// The journal's superblock may or may not be written.
    Formatting,
    /// In use.
    Open,
    /// The primary no longer sends: (state's code, reason).
    Suspended(String, String),
    /// A primary restarted with unsent records.
    Frozen(String),
    /// Takeover is decided; the journal counts up to this position and no further.
    Sealed { end: u64 },
    /// The journal is closed; the volumes are the hosts'.
    TakenOver,
}

/// A stream of the group's set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamMeta {
    pub(crate) id: StreamId,
    pub(crate) owner: SystemId,
    pub(crate) scope: Scope,
    pub(crate) epoch: Epoch,
    pub(crate) base: Seq,
    /// Every record of the epoch has a later time.
    pub(crate) base_time: Time,
    /// Durable up to here at the last checkpoint (the journal may know of more), in this epoch.
    pub(crate) durable: Seq,
    /// It left, with everything durable.
    pub(crate) closed: bool,
    /// Seen beyond the cut when the group was frozen or sealed.
    pub(crate) seen: Vec<RangeInclusive<u64>>,
    /// As [`StreamMeta::seen`].
    pub(crate) announced: Seq,
}

/// A pair of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PairMeta {
    pub(crate) id: PairId,
    pub(crate) name: String,
    pub(crate) geometry: Geometry,
    pub(crate) content: Content,
    /// The stream its records come in, once joined.
    pub(crate) stream: Option<StreamId>,
    /// A record of it was released once.
    pub(crate) touched: bool,
    /// It left its primary.
    pub(crate) left: bool,
}

/// Where replay starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The first journal position that is not on the flushed volumes.
    pub(crate) position: u64,
    /// Checksum of the block before it.
    pub(crate) previous: u32,
    /// Everything not later is on the volumes.
    pub(crate) limit: Time,
    /// The journal was durable up to here when this was written.
    pub(crate) durable_end: u64,
}

/// The value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupMeta {
    pub(crate) name: String,
    pub(crate) life: Life,
    pub(crate) generation: Generation,
    pub(crate) journal_id: u64,
    pub(crate) recovery_epoch: u64,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) streams: Vec<StreamMeta>,
    pub(crate) pairs: Vec<PairMeta>,
    pub(crate) greatest_time: Time,
    pub(crate) certificate: Option<LossCertificate>,
    pub(crate) discarded: Vec<(PairId, Extent)>,
    /// The takeover went on though the old primary might still serve hosts.
    pub(crate) split_accepted: bool,
}

impl GroupMeta {
    pub(crate) fn new(name: &str, journal_id: u64) -> GroupMeta {
        GroupMeta {
            name: name.to_owned(),
            life: Life::Formatting,
            generation: Generation::default(),
            journal_id,
            recovery_epoch: 0,
            checkpoint: Checkpoint::default(),
            streams: Vec::new(),
            pairs: Vec::new(),
            greatest_time: Time(0),
            certificate: None,
            discarded: Vec::new(),
            split_accepted: false,
        }
    }

    pub(crate) fn stream(&self, id: StreamId) -> Option<&StreamMeta> {
        self.streams.iter().find(|stream| stream.id == id)
    }

    pub(crate) fn stream_mut(&mut self, id: StreamId) -> Option<&mut StreamMeta> {
        self.streams.iter_mut().find(|stream| stream.id == id)
    }

    pub(crate) fn pair(&self, id: PairId) -> Option<&PairMeta> {
        self.pairs.iter().find(|pair| pair.id == id)
    }

    pub(crate) fn pair_mut(&mut self, id: PairId) -> Option<&mut PairMeta> {
        self.pairs.iter_mut().find(|pair| pair.id == id)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u32(VERSION);
        w.text(&self.name);
        match &self.life {
            Life::Formatting => w.u8(0),
            Life::Open => w.u8(1),
            Life::Suspended(state, reason) => {
                w.u8(2);
                w.text(state);
                w.text(reason);
            }
            Life::Frozen(reason) => {
                w.u8(3);
                w.text(reason);
            }
            Life::Sealed { end } => {
                w.u8(4);
                w.u64(*end);
            }
            Life::TakenOver => w.u8(5),
        }
        generation(&mut w, self.generation);
        w.u64(self.journal_id);
        w.u64(self.recovery_epoch);
        w.u64(self.checkpoint.position);
        w.u32(self.checkpoint.previous);
        w.u64(self.checkpoint.limit.0);
        w.u64(self.checkpoint.durable_end);
        w.list(&self.streams, |w, stream| {
            w.u64(stream.id.0);
            w.u64(stream.owner.0);
            w.u8(match stream.scope {
                Scope::Pair => 1,
                Scope::System => 2,
                Scope::Group => 3,
            });
            w.u64(stream.epoch.0);
            w.u64(stream.base.0);
            w.u64(stream.base_time.0);
            w.u64(stream.durable.0);
            w.u8(u8::from(stream.closed));
            ranges(w, &stream.seen);
            w.u64(stream.announced.0);
        });
        w.list(&self.pairs, |w, pair| {
            w.u64(pair.id.0);
            w.text(&pair.name);
            w.u64(pair.geometry.blocks);
            w.u32(pair.geometry.block_bytes);
            w.u8(match pair.content {
                Content::Empty => 1,
                Content::DeclaredIdentical => 2,
                Content::Established => 3,
                Content::Copy => 4,
            });
            w.option(pair.stream.as_ref(), |w, stream| w.u64(stream.0));
            w.u8(u8::from(pair.touched));
            w.u8(u8::from(pair.left));
        });
        w.u64(self.greatest_time.0);
        w.option(self.certificate.as_ref(), |w, certificate| {
            w.u64(certificate.recovery_point.0);
            generation(w, certificate.generation);
            w.list(&certificate.streams, |w, loss| {
                w.u64(loss.stream.0);
                w.u64(loss.epoch.0);
                w.u64(loss.last_applied.0);
                ranges(w, &loss.seen_not_applied);
                w.u64(loss.highest_announced.0);
            });
            w.list(&certificate.volumes, |w, volume| {
                w.u64(volume.pair.0);
                w.bytes(&volume.uuid);
            });
        });
        w.list(&self.discarded, |w, (pair, extent)| {
            w.u64(pair.0);
            w.u64(extent.lba);
            w.u32(extent.blocks);
        });
        w.u8(u8::from(self.split_accepted));
        w.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<GroupMeta, CodecError> {
        let mut r = Reader::new(bytes)?;
        let version = r.u32()?;
        if !(1..=VERSION).contains(&version) {
            return Err(r.wrong());
        }
        let meta = GroupMeta {
            name: r.text()?,
            life: match r.u8()? {
                0 => Life::Formatting,
                1 => Life::Open,
                2 => Life::Suspended(r.text()?, r.text()?),
                3 => Life::Frozen(r.text()?),
                4 => Life::Sealed { end: r.u64()? },
                5 => Life::TakenOver,
                _ => return Err(r.wrong()),
            },
            generation: read_generation(&mut r)?,
            journal_id: r.u64()?,
            recovery_epoch: r.u64()?,
            checkpoint: Checkpoint {
                position: r.u64()?,
                previous: r.u32()?,
                limit: Time(r.u64()?),
                durable_end: r.u64()?,
            },
            streams: r.list(|r| {
                Ok(StreamMeta {
                    id: StreamId(r.u64()?),
                    owner: SystemId(r.u64()?),
                    scope: match r.u8()? {
                        1 => Scope::Pair,
                        2 => Scope::System,
                        3 => Scope::Group,
                        _ => return Err(r.wrong()),
                    },
                    epoch: Epoch(r.u64()?),
                    base: Seq(r.u64()?),
                    base_time: Time(r.u64()?),
                    durable: Seq(r.u64()?),
                    closed: r.flag()?,
                    seen: read_ranges(r)?,
                    announced: Seq(r.u64()?),
                })
            })?,
            pairs: r.list(|r| {
                Ok(PairMeta {
                    id: PairId(r.u64()?),
                    name: r.text()?,
                    geometry: Geometry { blocks: r.u64()?, block_bytes: r.u32()? },
                    content: match r.u8()? {
                        1 => Content::Empty,
                        2 => Content::DeclaredIdentical,
                        3 => Content::Established,
                        4 => Content::Copy,
                        _ => return Err(r.wrong()),
                    },
                    stream: r.option(|r| Ok(StreamId(r.u64()?)))?,
                    touched: r.flag()?,
                    left: r.flag()?,
                })
            })?,
            greatest_time: Time(r.u64()?),
            certificate: r.option(|r| {
                Ok(LossCertificate {
                    recovery_point: Time(r.u64()?),
                    generation: read_generation(r)?,
                    streams: r.list(|r| {
                        Ok(StreamLoss {
                            stream: StreamId(r.u64()?),
                            epoch: Epoch(r.u64()?),
                            last_applied: Seq(r.u64()?),
                            seen_not_applied: read_ranges(r)?,
                            highest_announced: Seq(r.u64()?),
                        })
                    })?,
                    volumes: r.list(|r| Ok(VolumeIdentity { pair: PairId(r.u64()?), uuid: r.array()? }))?,
                    never_consistent: Vec::new(),
                })
            })?,
            discarded: r.list(|r| Ok((PairId(r.u64()?), Extent { lba: r.u64()?, blocks: r.u32()? })))?,
            // Version 1 did not say.
            split_accepted: version > 1 && r.flag()?,
        };
        r.end()?;
        Ok(meta)
    }
}

fn generation(w: &mut Writer, generation: Generation) {
    w.u64(generation.number);
    w.u64(generation.id);
    w.u64(generation.parent);
}

fn read_generation(r: &mut Reader<'_>) -> Result<Generation, CodecError> {
    Ok(Generation { number: r.u64()?, id: r.u64()?, parent: r.u64()? })
}

fn ranges(w: &mut Writer, ranges: &[RangeInclusive<u64>]) {
    w.list(ranges, |w, range| {
        w.u64(*range.start());
        w.u64(*range.end());
    });
}

fn read_ranges(r: &mut Reader<'_>) -> Result<Vec<RangeInclusive<u64>>, CodecError> {
    r.list(|r| Ok(r.u64()?..=r.u64()?))
}
