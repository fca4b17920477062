//! Devices that fail for longer than a moment: what operators see of it, here and at the primaries.
//!
//! Whatever fails is tried again every second for as long as it fails; records wait in the journal meanwhile, then in
//! memory, then at the primaries. What lasts longer than [`LASTS_NS`] shows as PSUE here, and every primary of the group is
//! told, again and again while it lasts: a lag that only grows says neither why nor what to do.

use super::Downlink;
use super::group::{Group, Phase};
use super::io::Io;
use crate::apply::Stuck;
use crate::message::Message;
use crate::ports::DeviceError;
use crate::types::{Mono, PairId};

/// From when on a failing device is taken for one that does not mend by itself.
pub(crate) const LASTS_NS: u64 = 10_000_000_000;
/// Tries that succeed in between do not end it: *a volume whose flush fails takes every write*.
const OVER_NS: u64 = 3_000_000_000;
/// For how long a clock that is ahead is taken to stay so, unless something else is heard.
const AHEAD_NS: u64 = 30_000_000_000;
/// How often the primaries are told.
const TELL_NS: u64 = 5_000_000_000;

/// A device that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    since: Mono,
    /// When it was seen last.
    seen: Mono,
    told: Option<Mono>,
    /// Whose volume; `None` for the journal.
    pair: Option<PairId>,
    text: String,
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// What fails now, in words for the operator.
    fn failing(&self) -> Option<(Option<PairId>, String)> {
        let Phase::Ready(ready) = &self.phase else {
            let Phase::Scan(scan) = &self.phase else { return None };
            return scan.search.error().map(|error| (None, journal_text("read", error)));
        };
        if let Some(error) = ready.journal.error() {
            return Some((None, journal_text("written", error)));
        }
        match ready.applier.stuck()? {
            Stuck::Missing(_) => None,
            Stuck::Journal(error) => Some((None, journal_text("read", error))),
            Stuck::Volume(error, volume) => {
                let pair = self.volumes.iter().find(|(_, (known, _))| Some(*known) == volume).map(|(pair, _)| *pair);
                let name = pair.and_then(|pair| self.meta.pair(pair)).map_or("?", |pair| pair.name.as_str());
                let text = format!(
                    "the volume of pair \"{name}\" cannot be written ({error}), tried again every second; its records wait \
                     in the journal, and so do those of the whole group: mend the device, or bring its file back and \
                     start again; is it lost, delete the pair at both sites and create it with a copy"
                );
                Some((pair, text))
            }
        }
    }

    /// The journal's device failed before the group was open.
    pub(crate) fn opening_failed(&mut self, now: Mono, error: DeviceError) {
        self.note_trouble(now, None, journal_text("opened", error));
    }

    fn note_trouble(&mut self, now: Mono, pair: Option<PairId>, text: String) {
        match &mut self.trouble {
            Some(trouble) if trouble.pair == pair => (trouble.seen, trouble.text) = (now, text),
            known => *known = Some(Trouble { since: now, seen: now, told: None, pair, text }),
        }
    }

    /// A primary's frame was dropped because it is stamped in the future. *Its clock was set ahead and it restarted: nothing
    /// of it was taken, for hours, and nobody said why.*
    pub(super) fn note_ahead(&mut self, now: Mono, ahead_ns: u64, most_ns: u64) {
        if self.failing().is_none() {
            let text = format!(
                "a primary's clock is {} ms ahead of this system's, {} ms is the most: nothing of it is taken while that is \
                 so; set the clocks of both systems right, it goes on when they have come together",
                ahead_ns / 1_000_000,
                most_ns / 1_000_000
            );
            // What is sent again comes less and less often.
            self.note_trouble(now, None, text);
            if let Some(trouble) = &mut self.trouble {
                trouble.seen = now.after_ns(AHEAD_NS);
            }
        }
    }

    /// Looks at the devices, and tells the primaries what lasts, and when it is over.
    pub(crate) fn watch_devices<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        let now = io.now.mono;
        if let Some((pair, text)) = self.failing() {
            self.note_trouble(now, pair, text);
        }
        let lasts = self.lasting_trouble(now).is_some();
        let Some(trouble) = &mut self.trouble else { return };
        if now.since_ns(trouble.seen) > OVER_NS {
            if trouble.told.is_some() {
                io.ports.log(format_args!("group \"{}\": its devices work again", self.meta.name));
                self.tell_trouble(io, None, String::new());
            }
            self.trouble = None;
        } else if lasts && trouble.told.is_none_or(|told| now.since_ns(told) >= TELL_NS) {
            if trouble.told.is_none() {
                io.ports.log(format_args!("group \"{}\": {}", self.meta.name, trouble.text));
            }
            trouble.told = Some(now);
            let (pair, text) = (trouble.pair, trouble.text.clone());
            self.tell_trouble(io, pair, text);
        }
    }

    fn tell_trouble<P: Downlink<Shared = S>>(&self, io: &mut Io<'_, P>, pair: Option<PairId>, text: String) {
        for link in self.links.values() {
            io.ports.send_message(*link, Message::Trouble { group: self.id, pair, text: text.clone() });
        }
    }

    /// What fails now, or did a moment ago.
    pub(crate) fn trouble_text(&self) -> Option<String> {
        let is_open = matches!(self.phase, Phase::Ready(_));
        let known = || self.trouble.as_ref().filter(|trouble| !is_open || trouble.told.is_some());
        self.failing().map(|(_, text)| text).or_else(|| known().map(|trouble| trouble.text.clone()))
    }

    /// What fails for longer than a moment: whose volume it is, or `None` for the journal.
    fn lasting_trouble(&self, now: Mono) -> Option<Option<PairId>> {
        self.trouble.as_ref().filter(|trouble| now.since_ns(trouble.since) >= LASTS_NS).map(|trouble| trouble.pair)
    }

    /// Whether a pair does not go on because a device fails for longer than a moment.
    pub(crate) fn is_in_trouble(&self, now: Mono, pair: PairId) -> bool {
        self.lasting_trouble(now).is_some_and(|failing| failing.is_none_or(|failing| failing == pair))
    }

    /// When to look again.
    pub(crate) fn trouble_due(&self) -> Option<Mono> {
        self.trouble.as_ref().map(|trouble| trouble.seen.after_ns(OVER_NS + 1))
    }
}

fn journal_text(what: &str, error: DeviceError) -> String {
    format!(
        "the journal cannot be {what} ({error}), tried again every second; nothing becomes durable here meanwhile: mend its \
         device or make room there, or bring its file back and start again"
    )
}
