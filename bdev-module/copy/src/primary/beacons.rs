//! Beacons: what a stream says when it has been silent, so that nobody waits for it.

use super::group::Group;
use super::stream::{Numbers, Stream};
use super::turn::LEASE_RETRY_NS;
use super::{Beacon, Primary, PrimaryConfig, Up, spill};
use crate::ports::Memory;
use crate::stamp::Stamper;
use crate::types::{GroupId, Mono, Now, StreamId};
use std::collections::BTreeMap;

/// A stream's silence is stretched to this part of its groups' idle time.
const IDLE_PART: u64 = 8;
/// A stream that is to speak within this part of its silence speaks along with another whose turn it is: they go in one
/// datagram. *256 streams had each a turn of its own, and a datagram: the network lost the records between them.*
const EARLY_PART: u64 = 4;
/// So many streams may each speak once in [`PrimaryConfig::beacon_interval_ns`], or in the time to which their silence is
/// stretched; where there are more, each is silent for as many times longer. A thousand streams of a busy group would else
/// speak half a million times a second, and those of an idle one twenty thousand times.
const STREAMS_AT_ONCE: usize = 256;

impl<M: Memory> Primary<M> {
    /// Sends the beacons of all streams that were silent for long enough. Returns when to look again.
    pub(super) fn beacons(&mut self, now: Now, ports: &mut impl Up<M>) -> Mono {
        let pace = self.pace();
        let said = self.streams.iter_mut().filter_map(|(id, stream)| {
            say(now, *id, stream, pace, &self.config, &self.groups, &self.spills, &mut self.stamper, ports)
        });
        said.min().unwrap_or(Mono(u64::MAX))
    }

    /// How many times longer than usual a stream is silent.
    fn pace(&self) -> u64 {
        self.streams.len().div_ceil(STREAMS_AT_ONCE) as u64
    }

    /// The same for one stream.
    pub(super) fn beacon(&mut self, now: Now, id: StreamId, ports: &mut impl Up<M>) {
        let pace = self.pace();
        if let Some(stream) = self.streams.get_mut(&id) {
            say(now, id, stream, pace, &self.config, &self.groups, &self.spills, &mut self.stamper, ports);
        }
    }
}

/// Sends a beacon if the stream was silent for long enough. Returns when it will have been.
#[expect(clippy::too_many_arguments, reason = "the parts of the engine, borrowed one by one")]
fn say<M: Memory>(
    now: Now,
    id: StreamId,
    stream: &mut Stream,
    pace: u64,
    config: &PrimaryConfig,
    groups: &BTreeMap<GroupId, Group>,
    spills: &BTreeMap<GroupId, spill::Owned<M::Shared>>,
    stamper: &mut Stamper,
    ports: &mut impl Up<M>,
) -> Option<Mono> {
    if !stream.sends() || !stream.started || !ports.session_is_up(stream.link) {
        return None;
    }
    let handed = spill::handed(spills, id, stream);
    let interval_ns = match handed {
        // Other streams wait for it, however idle hosts are.
        Some(_) => config.beacon_interval_ns,
        None => silence_ns(now, stream.members.keys().filter_map(|group| groups.get(group)), config),
    };
    let interval_ns = interval_ns * pace;
    let at = stream.last_sent.after_ns(interval_ns);
    if now.mono.after_ns(interval_ns / EARLY_PART) < at {
        return Some(at);
    }
    // In turn with the usual one: that lets a takeover tell how much is lost.
    if let Some((time, seq)) = handed.filter(|_| !stream.told_handed) {
        (stream.told_handed, stream.last_sent) = (true, now.mono);
        ports.send_beacon(stream.link, Beacon { stream: id, epoch: stream.epoch, time, seq });
        return Some(now.mono.after_ns(interval_ns));
    }
    stream.told_handed = false;
    let count = match stream.numbers {
        Numbers::Live(numbering) => match stamper.promise(now, numbering) {
            Ok(count) => count,
            Err(_) => return Some(now.mono.after_ns(LEASE_RETRY_NS)),
        },
        // The last word, said until it is heard: nothing up to here follows, and nothing later either.
        Numbers::Ending(count) => count,
        Numbers::Broken(_) | Numbers::Drained(_) => return None,
    };
    stream.last_sent = now.mono;
    ports.send_beacon(stream.link, Beacon { stream: id, epoch: stream.epoch, time: count.floor, seq: count.last });
    Some(now.mono.after_ns(interval_ns))
}

/// How long a stream may be silent: short while one of its groups is written to, stretched with their idle time.
fn silence_ns<'a>(now: Now, groups: impl Iterator<Item = &'a Group>, config: &PrimaryConfig) -> u64 {
    let idle_ns = groups.map(|group| now.mono.since_ns(group.last_write)).min().unwrap_or(u64::MAX);
    (idle_ns / IDLE_PART).clamp(config.beacon_interval_ns, config.beacon_interval_ns_max)
}
