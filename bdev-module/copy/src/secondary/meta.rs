//! What a group must know after a crash beside its journal: one value under `secondary/group/<id>`, written whole, so
//! that every change is one atomic step. An empty value is a group that was deleted.

use super::codec::{CodecError, Reader, Writer};
use super::known::{Known, Named};
use super::status::Bookmark;
use crate::journal::open::LogMeta;
use crate::message::Content;
use crate::takeover::{LossCertificate, StreamLoss, VolumeIdentity};
use crate::types::{Epoch, Extent, Generation, Geometry, GroupId, PairId, Scope, Seq, Stamp, StreamId, SystemId, Time};
use std::ops::RangeInclusive;

/// Version of the value's format.
const VERSION: u32 = 4;

/// Resyncs that a group remembers.
const LEAPS_MAX: usize = 256;

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
    /// The primary no longer sends until it resyncs: (state's code, reason).
    Suspended(String, String),
    /// A primary restarted with unsent records and has not resynced yet.
    Frozen(String),
    /// Records that were acknowledged are not here: the volumes are no cut, and nothing can make them one.
    Lost(String),
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
    /// It is being made larger: what hosts see until both sides hold the same.
    pub(crate) shown_blocks: Option<u64>,
    pub(crate) content: Content,
    /// The stream its records come in, once joined.
    pub(crate) stream: Option<StreamId>,
    /// A record of it was released once.
    pub(crate) touched: bool,
    /// It left its primary.
    pub(crate) left: bool,
    /// The operator here gave the volume's content up for the primary's.
    pub(crate) overwritable: bool,
    /// From when on it is part of the group's cut.
    pub(crate) image: Image,
    /// What the unit under way brings of it.
    pub(crate) share: Share,
}

impl Named for StreamMeta {
    type Id = StreamId;

    fn id(&self) -> StreamId {
        self.id
    }
}

impl Named for PairMeta {
    type Id = PairId;

    fn id(&self) -> PairId {
        self.id
    }
}

/// Since when a pair's volume is a true picture, at every cut that is not earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Image {
    /// Since this time; 0: since the two volumes were found equal.
    Whole(Time),
    /// It is being copied for the first time; complete with this time, if the primary has said it.
    Copying(Option<Time>),
    /// The volume's content ended with an earlier process.
    Lost,
}

impl PairMeta {
    /// Whether a cut at this time is a picture of the pair too.
    pub(crate) fn is_whole_at(&self, cut: Time) -> bool {
        matches!(self.image, Image::Whole(since) if since <= cut)
    }
}

/// What the unit under way brings of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Share {
    /// Nothing yet: its primary has not joined it since the unit began.
    #[default]
    None,
    /// What may differ.
    Differences,
    /// All of it.
    Everything,
}

/// A resync: every record later than the base belongs to one unit, which counts as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnitMeta {
    /// The limit when it began: the time of the image that stays until it is complete.
    pub(crate) base: Time,
    /// The journal position behind all that is not later than the base; every block from here on is the unit's.
    pub(crate) position: u64,
    /// Primaries that take part.
    pub(crate) owners: Vec<UnitOwner>,
    /// Records of it may be on the volumes; what they overwrote is in the overlay.
    pub(crate) is_overlaid: bool,
    /// How far each stream was at the base: (stream, epoch, last number).
    pub(crate) last: Vec<(StreamId, Epoch, Seq)>,
}

/// A primary that takes part in a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnitOwner {
    pub(crate) owner: SystemId,
    /// Its own number for the resync; `None`: it has not begun one since the unit did.
    pub(crate) number: Option<u64>,
    /// Everything that it was to bring is stamped not later than this; `None`: it has not said so.
    pub(crate) end: Option<Time>,
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
    pub(crate) streams: Known<StreamMeta>,
    pub(crate) pairs: Known<PairMeta>,
    pub(crate) greatest_time: Time,
    pub(crate) certificate: Option<LossCertificate>,
    pub(crate) discarded: Vec<(PairId, Extent)>,
    /// The takeover went on though the old primary might still serve hosts.
    pub(crate) split_accepted: bool,
    /// The resync under way.
    pub(crate) unit: Option<UnitMeta>,
    /// The newest, in order of their stamps.
    pub(crate) bookmarks: Vec<Bookmark>,
    /// Everything not later was journaled: the journal's own last word may say less, when nothing was to be journaled.
    pub(crate) proven: Time,
    /// Nothing later than this was ever put on the volumes; `None`: anything in the journal may have been.
    pub(crate) reach: Option<Time>,
    /// Resyncs that are complete, the newest [`LEAPS_MAX`]: from the image before to the one after. No time in between
    /// is a point of the history.
    pub(crate) leaps: Vec<(Time, Time)>,
    /// The overlay's log, once there is one.
    pub(crate) overlay: Option<LogMeta>,
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
            streams: Known::default(),
            pairs: Known::default(),
            greatest_time: Time(0),
            certificate: None,
            discarded: Vec::new(),
            split_accepted: false,
            unit: None,
            bookmarks: Vec::new(),
            proven: Time(0),
            reach: None,
            leaps: Vec::new(),
            overlay: None,
        }
    }

    /// A resync is complete.
    pub(crate) fn leap(&mut self, from: Time, to: Time) {
        self.leaps.push((from, to));
        let excess = self.leaps.len().saturating_sub(LEAPS_MAX);
        self.leaps.drain(..excess);
    }

    pub(crate) fn stream(&self, id: StreamId) -> Option<&StreamMeta> {
        self.streams.find(id)
    }

    pub(crate) fn stream_mut(&mut self, id: StreamId) -> Option<&mut StreamMeta> {
        self.streams.find_mut(id)
    }

    pub(crate) fn pair(&self, id: PairId) -> Option<&PairMeta> {
        self.pairs.find(id)
    }

    pub(crate) fn pair_mut(&mut self, id: PairId) -> Option<&mut PairMeta> {
        self.pairs.find_mut(id)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        self.encode_to(&mut w);
        w.finish()
    }

    /// The same, but for the end of the value, which [`Writer::finish`] makes.
    pub(crate) fn encode_to(&self, w: &mut Writer) {
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
            Life::Lost(reason) => {
                w.u8(6);
                w.text(reason);
            }
        }
        generation(w, self.generation);
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
            w.u8(u8::from(pair.overwritable));
            match pair.image {
                Image::Whole(since) => {
                    w.u8(1);
                    w.u64(since.0);
                }
                Image::Copying(end) => {
                    w.u8(2);
                    w.option(end.as_ref(), |w, end| w.u64(end.0));
                }
                Image::Lost => w.u8(3),
            }
            w.u8(match pair.share {
                Share::None => 0,
                Share::Differences => 1,
                Share::Everything => 2,
            });
            w.option(pair.shown_blocks.as_ref(), |w, blocks| w.u64(*blocks));
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
            w.list(&certificate.never_consistent, |w, pair| w.u64(pair.0));
        });
        w.list(&self.discarded, |w, (pair, extent)| {
            w.u64(pair.0);
            w.u64(extent.lba);
            w.u32(extent.blocks);
        });
        w.u8(u8::from(self.split_accepted));
        w.option(self.unit.as_ref(), |w, unit| {
            w.u64(unit.base.0);
            w.u64(unit.position);
            w.list(&unit.owners, |w, owner| {
                w.u64(owner.owner.0);
                w.option(owner.number.as_ref(), |w, number| w.u64(*number));
                w.option(owner.end.as_ref(), |w, end| w.u64(end.0));
            });
            w.u8(u8::from(unit.is_overlaid));
            w.list(&unit.last, |w, (stream, epoch, seq)| {
                w.u64(stream.0);
                w.u64(epoch.0);
                w.u64(seq.0);
            });
        });
        w.list(&self.bookmarks, |w, bookmark| {
            w.text(&bookmark.name);
            w.u64(bookmark.stamp.time.0);
            w.u64(bookmark.stamp.stream.0);
            w.u64(bookmark.stamp.seq.0);
        });
        w.u64(self.proven.0);
        w.option(self.reach.as_ref(), |w, reach| w.u64(reach.0));
        w.list(&self.leaps, |w, (from, to)| {
            w.u64(from.0);
            w.u64(to.0);
        });
        w.option(self.overlay.as_ref(), |w, log| w.bytes(&log.encode()));
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
                6 => Life::Lost(r.text()?),
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
            streams: r
                .list(|r| {
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
                })?
                .into(),
            pairs: r
                .list(|r| {
                    let mut pair = PairMeta {
                        id: PairId(r.u64()?),
                        name: r.text()?,
                        geometry: Geometry { blocks: r.u64()?, block_bytes: r.u32()? },
                        shown_blocks: None,
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
                        overwritable: version > 2 && r.flag()?,
                        image: if version > 2 { read_image(r)? } else { Image::Whole(Time(0)) },
                        share: match if version > 2 { r.u8()? } else { 0 } {
                            0 => Share::None,
                            1 => Share::Differences,
                            2 => Share::Everything,
                            _ => return Err(r.wrong()),
                        },
                    };
                    // Version 3 showed hosts the new size after any restart.
                    pair.shown_blocks = if version > 3 { r.option(|r| r.u64())? } else { None };
                    Ok(pair)
                })?
                .into(),
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
                    never_consistent: if version > 2 { r.list(|r| Ok(PairId(r.u64()?)))? } else { Vec::new() },
                })
            })?,
            discarded: r.list(|r| Ok((PairId(r.u64()?), Extent { lba: r.u64()?, blocks: r.u32()? })))?,
            // Version 1 did not say.
            split_accepted: version > 1 && r.flag()?,
            // Version 2 knew of none of these.
            unit: if version > 2 { r.option(read_unit)? } else { None },
            bookmarks: if version > 2 { r.list(read_bookmark)? } else { Vec::new() },
            proven: if version > 2 { Time(r.u64()?) } else { Time(0) },
            reach: if version > 2 { r.option(|r| Ok(Time(r.u64()?)))? } else { None },
            leaps: if version > 2 { r.list(|r| Ok((Time(r.u64()?), Time(r.u64()?))))? } else { Vec::new() },
            overlay: if version > 2 { r.option(read_log)? } else { None },
        };
        r.end()?;
        Ok(meta)
    }
}

fn read_image(r: &mut Reader<'_>) -> Result<Image, CodecError> {
    Ok(match r.u8()? {
        1 => Image::Whole(Time(r.u64()?)),
        2 => Image::Copying(r.option(|r| Ok(Time(r.u64()?)))?),
        3 => Image::Lost,
        _ => return Err(r.wrong()),
    })
}

fn read_unit(r: &mut Reader<'_>) -> Result<UnitMeta, CodecError> {
    Ok(UnitMeta {
        base: Time(r.u64()?),
        position: r.u64()?,
        owners: r.list(|r| {
            Ok(UnitOwner {
                owner: SystemId(r.u64()?),
                number: r.option(|r| r.u64())?,
                end: r.option(|r| Ok(Time(r.u64()?)))?,
            })
        })?,
        is_overlaid: r.flag()?,
        last: r.list(|r| Ok((StreamId(r.u64()?), Epoch(r.u64()?), Seq(r.u64()?))))?,
    })
}

fn read_bookmark(r: &mut Reader<'_>) -> Result<Bookmark, CodecError> {
    let name = r.text()?;
    let stamp = Stamp { time: Time(r.u64()?), stream: StreamId(r.u64()?), seq: Seq(r.u64()?) };
    Ok(Bookmark { name, stamp })
}

fn read_log(r: &mut Reader<'_>) -> Result<LogMeta, CodecError> {
    let bytes: [u8; LogMeta::BYTES] = r.array()?;
    let log = LogMeta::decode(&bytes).ok_or(r.wrong())?;
    // Only what would be written again alike is believed.
    if log.encode() == bytes { Ok(log) } else { Err(r.wrong()) }
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
