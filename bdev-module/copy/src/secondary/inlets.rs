//! What a group holds of its streams, and how far they let its limit go.

use super::meta::StreamMeta;
use crate::merge::Tips;
use crate::types::{Epoch, Seq, StreamId, Time};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;

/// What a group holds of one of its streams.
pub(crate) struct Inlet {
    epoch: Epoch,
    /// Every record of this group that is not later is released already, or there is none.
    floor: Time,
    /// Records of this group up to this number are durable.
    pub(crate) durable: Seq,
    /// The last record of this epoch that is on its volume.
    pub(crate) applied: Seq,
    /// In the stream's run, not durable.
    pub(crate) undurable: VecDeque<Seq>,
    /// The stream leaves the group after this number.
    end: Option<Seq>,
    /// Its place among the tips.
    place: usize,
}

impl Inlet {
    pub(crate) fn new(meta: &StreamMeta, durable: Seq, limit: Time) -> Self {
        Inlet {
            epoch: meta.epoch,
            floor: meta.base_time.max(limit),
            durable,
            applied: meta.base.previous(),
            undurable: VecDeque::new(),
            end: None,
            place: 0,
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn floor(&self) -> Time {
        self.floor
    }

    /// After which number the stream leaves the group, once that was said.
    pub(crate) fn end(&self) -> Option<Seq> {
        self.end
    }

    /// The tip: what the stream says (its epoch, its tip), if it is in this group's epoch, but never below the group's own
    /// floor.
    pub(crate) fn tip(&self, stream: Option<(Epoch, Time)>) -> Time {
        match stream {
            Some((epoch, tip)) if epoch == self.epoch => tip.max(self.floor),
            _ => self.floor,
        }
    }
}

/// A group's inlets. Read as the map that it is; what moves the limit goes through here, so that the least tip is known
/// without a look at all streams.
#[derive(Default)]
pub(crate) struct Inlets {
    by_stream: BTreeMap<StreamId, Inlet>,
    tips: Tips,
    /// Inlets came or went, or a floor moved, since the tips were set.
    is_stale: bool,
    /// How many have an end.
    ends: usize,
}

impl Inlets {
    pub(crate) fn insert(&mut self, stream: StreamId, inlet: Inlet) {
        self.by_stream.insert(stream, inlet);
        self.changed();
    }

    pub(crate) fn remove(&mut self, stream: StreamId) -> Option<Inlet> {
        let removed = self.by_stream.remove(&stream);
        self.changed();
        removed
    }

    pub(crate) fn clear(&mut self) {
        self.by_stream.clear();
        self.changed();
    }

    fn changed(&mut self) {
        self.is_stale = true;
        self.ends = self.by_stream.values().filter(|inlet| inlet.end.is_some()).count();
    }

    /// The inlet, if the stream is in this epoch here.
    pub(crate) fn of_epoch(&self, stream: StreamId, epoch: Epoch) -> Option<&Inlet> {
        self.by_stream.get(&stream).filter(|inlet| inlet.epoch == epoch)
    }

    pub(crate) fn of_epoch_mut(&mut self, stream: StreamId, epoch: Epoch) -> Option<&mut Inlet> {
        self.by_stream.get_mut(&stream).filter(|inlet| inlet.epoch == epoch)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (StreamId, &mut Inlet)> {
        self.by_stream.iter_mut().map(|(stream, inlet)| (*stream, inlet))
    }

    /// In this epoch the stream leaves the group after `end`.
    pub(crate) fn announce_end(&mut self, stream: StreamId, epoch: Epoch, end: Seq) {
        if let Some(inlet) = self.of_epoch_mut(stream, epoch) {
            inlet.end = Some(end);
            self.changed();
        }
    }

    /// Whether a stream is to leave.
    pub(crate) fn have_ends(&self) -> bool {
        self.ends > 0
    }

    /// In this epoch nothing comes any more that is not later.
    pub(crate) fn raise_floor(&mut self, stream: StreamId, epoch: Epoch, floor: Time) {
        if let Some(inlet) = self.of_epoch_mut(stream, epoch) {
            inlet.floor = inlet.floor.max(floor);
            self.changed();
        }
    }

    /// Takes note of all tips again, if that is needed. `tip_of`: what a stream says.
    pub(crate) fn set_tips(&mut self, tip_of: impl Fn(StreamId) -> Option<(Epoch, Time)>) {
        if std::mem::take(&mut self.is_stale) {
            for (place, inlet) in self.by_stream.values_mut().enumerate() {
                inlet.place = place;
            }
            let tips: Vec<Time> = self.by_stream.iter().map(|(stream, inlet)| inlet.tip(tip_of(*stream))).collect();
            self.tips.set_all(tips.into_iter());
        }
        debug_assert_eq!(
            self.tips.least(),
            crate::merge::limit_of(self.by_stream.iter().map(|(stream, inlet)| inlet.tip(tip_of(*stream)))),
            "a tip moved and nobody said so"
        );
    }

    /// What any stream says may be other than it was.
    pub(crate) fn all_moved(&mut self) {
        self.is_stale = true;
    }

    /// What this stream says has moved.
    pub(crate) fn moved(&mut self, stream: StreamId, said: (Epoch, Time)) {
        if let (false, Some(inlet)) = (self.is_stale, self.by_stream.get(&stream)) {
            self.tips.set(inlet.place, inlet.tip(Some(said)));
        }
    }

    /// The limit time: the least tip, as last noted.
    pub(crate) fn limit(&self) -> Option<Time> {
        self.tips.least()
    }
}

impl Deref for Inlets {
    type Target = BTreeMap<StreamId, Inlet>;

    fn deref(&self) -> &BTreeMap<StreamId, Inlet> {
        &self.by_stream
    }
}
