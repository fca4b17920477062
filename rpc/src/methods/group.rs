//! Consistency groups: the pairs whose writes keep one common order.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::pair::{PairState, Waiting};
use super::progress::{BookmarkInfo, CopyInfo, UnitInfo, VerifyInfo, Window};
use super::spill::SpillInfo;
use crate::types::{Name, Nguid, TakeoverPoint};

/// Which side of the copy a system is on, for one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Hosts write here.
    Primary,
    /// The copy is here.
    Secondary,
}

/// What a sequence number counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SequenceScope {
    /// The packets of one pair.
    Pair,
    /// The packets from one system to another.
    System,
    /// The packets from one system to another within one group.
    #[default]
    Group,
}

/// What a group does when its send buffer fills because the link is too slow, or away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overflow {
    /// Hosts are slowed, in a ramp and by `throttle_ms_max` at most; if that is not enough the group suspends.
    #[default]
    Throttle,
    /// Hosts never wait: the group suspends.
    Suspend,
}

/// `group_create`. Answers the group's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupCreate {
    /// Its name, the same at both systems.
    pub name: Name,
    /// This system's side.
    pub role: Role,
    /// The link to the other system; short for `links` with one entry.
    pub link: Option<String>,
    /// The links to the other systems.
    pub links: Option<Vec<String>>,
    /// The core that the group is at home on, from 0 in the order of `--cores`; default its link's. With
    /// `sequence_scope` system only that.
    pub core: Option<u16>,
    /// Primary only; default `group`. Fixed for the group's life.
    pub sequence_scope: Option<SequenceScope>,
    /// The device that holds the secondary's journal, which the group claims. At the primary it is for after a swap.
    pub journal: Option<String>,
    /// While primary: the most that a host's write is delayed while the link is behind, milliseconds, before the group
    /// suspends; default 200.
    pub throttle_ms_max: Option<u64>,
    /// Memory for records in transit, bytes; default 64 MiB, or what is left. The groups of a core may have half of its
    /// memory together.
    pub buffer_bytes: Option<u64>,
    /// While primary: what happens when that memory is full; default `throttle`.
    pub overflow: Option<Overflow>,
    /// While primary: the device for records that the memory cannot hold, which the group claims; default none: then the
    /// memory is all there is. Not with `sequence_scope` system.
    pub spill: Option<String>,
    /// While primary: how fast copies and resyncs read the volumes at most, MiB per second; default as fast as hosts, link
    /// and secondary leave room.
    pub copy_mib_per_s: Option<NonZeroU64>,
    /// While secondary: the device for old blocks while a resync is larger than the journal, which the group claims. Without
    /// one such a resync waits.
    pub overlay: Option<String>,
    /// While secondary: how far the volumes stay behind the recovery point, seconds, so that a takeover may choose a point
    /// in between; default 0.
    pub apply_delay_s: Option<u64>,
}

impl GroupCreate {
    /// Used where `throttle_ms_max` is not given.
    pub const THROTTLE_MS_MAX_DEFAULT: u64 = 200;
    /// The greatest `throttle_ms_max`: well below the time after which hosts abort a command.
    pub const THROTTLE_MS_MAX_LIMIT: u64 = 10_000;
    /// Used where `buffer_bytes` is not given.
    pub const BUFFER_BYTES_DEFAULT: u64 = 64 << 20;
    /// The least `buffer_bytes`: some of the largest records.
    pub const BUFFER_BYTES_MIN: u64 = 4 << 20;

    /// The greatest `apply_delay_s`: a week. The journal has to hold what is written in that time.
    pub const APPLY_DELAY_S_LIMIT: u64 = 7 * 86_400;

    /// The links, from whichever of the two parameters was given.
    pub fn link_names(&self) -> Vec<&str> {
        match (&self.link, &self.links) {
            (Some(link), _) => vec![link],
            (None, Some(links)) => links.iter().map(String::as_str).collect(),
            (None, None) => Vec::new(),
        }
    }

    /// What a sequence number counts.
    pub fn sequence_scope(&self) -> SequenceScope {
        self.sequence_scope.unwrap_or_default()
    }

    /// The most that a host's write is delayed, milliseconds.
    pub fn throttle_ms_max(&self) -> u64 {
        self.throttle_ms_max.unwrap_or(Self::THROTTLE_MS_MAX_DEFAULT)
    }

    /// Memory for records in transit, bytes.
    pub fn buffer_bytes(&self) -> u64 {
        self.buffer_bytes.unwrap_or(Self::BUFFER_BYTES_DEFAULT)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.link.is_some() && self.links.is_some() {
            return Err("give `link` or `links`, not both".to_owned());
        }
        let links = self.link_names();
        if links.is_empty() {
            return Err("`link` is missing; give the name of a link from link_create".to_owned());
        }
        if let Some(twice) =
            links.iter().enumerate().find(|(i, name)| links.iter().take(*i).any(|other| other == *name))
        {
            return Err(format!("link {:?} is given twice", crate::error::shorten(twice.1)));
        }
        match self.role {
            Role::Primary if self.journal.is_none() && (self.overlay.is_some() || self.apply_delay_s.is_some()) => {
                return Err(
                    "`overlay` and `apply_delay_s` are for this side as a secondary, after a swap, which needs a \
                     `journal` too; give one, or leave them out"
                        .to_owned(),
                );
            }
            Role::Secondary if self.journal.is_none() => {
                return Err("`journal` is missing; give the name of a bdev for the secondary's journal".to_owned());
            }
            Role::Secondary if self.sequence_scope.is_some() => {
                return Err(
                    "`sequence_scope` belongs to the primary, which tells the secondary; leave it out here".to_owned()
                );
            }
            _ if self.overlay.is_some() && self.overlay == self.journal => {
                return Err("`overlay` and `journal` are the same; each needs a bdev of its own".to_owned());
            }
            _ => {}
        }
        if self.spill.is_some() && self.sequence_scope() == SequenceScope::System {
            return Err("`spill` goes with sequence_scope \"group\" or \"pair\" only; leave one out".to_owned());
        }
        if self.spill.is_some() && (self.spill == self.journal || self.spill == self.overlay) {
            return Err("`spill` is given for something else too; it needs a bdev of its own".to_owned());
        }
        if let Some(given) = self.apply_delay_s.filter(|given| *given > Self::APPLY_DELAY_S_LIMIT) {
            return Err(format!("apply_delay_s is {given}, expected 0 to {} seconds", Self::APPLY_DELAY_S_LIMIT));
        }
        if self.overflow == Some(Overflow::Suspend) && self.throttle_ms_max.is_some() {
            return Err("with overflow \"suspend\" hosts are not slowed; leave out throttle_ms_max".to_owned());
        }
        if self.throttle_ms_max() > Self::THROTTLE_MS_MAX_LIMIT {
            return Err(format!(
                "throttle_ms_max is {}, expected 0 to {} ms",
                self.throttle_ms_max(),
                Self::THROTTLE_MS_MAX_LIMIT
            ));
        }
        if self.buffer_bytes() < Self::BUFFER_BYTES_MIN {
            return Err(format!(
                "buffer_bytes is {}, expected at least {} bytes",
                self.buffer_bytes(),
                Self::BUFFER_BYTES_MIN
            ));
        }
        Ok(())
    }
}

/// `group_delete`. -16 while it has pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupDelete {
    /// Its name.
    pub name: String,
}

/// `group_get`: all, or one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupGet {
    /// Only this one; -19 where there is none.
    pub name: Option<String>,
}

/// `group_suspend`, at the primary: nothing more is copied from one moment on, for all pairs alike; hosts run on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSuspend {
    /// The group.
    pub name: String,
}

/// The answer of `group_suspend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspendInfo {
    /// Nothing later was stamped, nanoseconds on the group's timeline.
    pub at_ns: u64,
    /// Whether the secondary has everything up to `at_ns`. If not it could not be reached in time, stays at an earlier
    /// moment, and what it lacks is marked.
    pub drained: bool,
}

/// `group_resync`, at the primary: copies what the secondary lacks, once there is a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupResync {
    /// The group.
    pub name: String,
    /// Copy all of all volumes; default `false`: what is marked.
    pub full: Option<bool>,
}

/// `group_bookmark`, at the primary: a name for this moment. Answers where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupBookmark {
    /// The group.
    pub name: String,
    /// The bookmark's name; where a name comes again, the newest counts.
    pub bookmark: Name,
}

/// `group_verify`, at the primary: compares the two sides' volumes while hosts go on; `group_get` and `pair_get` show
/// what it finds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupVerify {
    /// The group.
    pub name: String,
    /// Only this pair; default all.
    pub pair: Option<String>,
    /// Copy again what differs; default `false`.
    pub repair: Option<bool>,
}

/// A generation of a group: a new one at each takeover. Same number with another id is split brain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Rises by one at each takeover.
    pub number: u64,
    /// Random, hex.
    pub id: String,
    /// The id it came from; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// How far the secondary is behind. What is not known is absent, never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// Age of the recovery point, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Payload that is not durable at the secondary, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Records that are not durable at the secondary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
}

/// One stream as one end of it sees it. Times are nanoseconds on the group's timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamInfo {
    /// The stream's id.
    pub stream: u64,
    /// The link it uses.
    pub link: String,
    /// Its epoch, raised at each start of the primary.
    pub epoch: u64,
    /// The time up to which it is known to be complete; at the primary, of the last record stamped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tip_ns: Option<u64>,
    /// The last number of the run received without a gap; at the primary, the last number sent.
    pub received: u64,
    /// The last number durable at the secondary, as far as this end knows.
    pub durable: u64,
    /// The greatest number a record or a beacon has named.
    pub announced: u64,
    /// Why it is broken, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// A group as `group_get` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// This system's side.
    pub role: Role,
    /// The worst of its pairs' states; SMPL without pairs.
    pub state: PairState,
    /// Whether the secondary is a true picture of one moment of the past.
    pub consistent: bool,
    /// What the secondary is exact up to, nanoseconds on the group's timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_point_ns: Option<u64>,
    /// The recovery point's age, milliseconds; never below the true one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_ms: Option<u64>,
    /// The least of the streams' tips, nanoseconds on the group's timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_time_ns: Option<u64>,
    /// This system's timeline at the moment of the answer, in nanoseconds: recovery points are ages against this.
    pub timeline_now_ns: u64,
    /// How far the secondary is behind.
    pub lag: Lag,
    /// Its generation.
    pub generation: Generation,
    /// The other site's, where that took the group over (a higher number) or continues it too (split brain: the same number);
    /// at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_generation: Option<Generation>,
    /// What a sequence number counts.
    pub sequence_scope: SequenceScope,
    /// Its links.
    pub links: Vec<String>,
    /// The core that it is at home on.
    #[serde(default)]
    pub core: u16,
    /// Its pairs.
    pub pairs: Vec<String>,
    /// Its streams.
    pub streams: Vec<StreamInfo>,
    /// The journal's device, at the secondary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<String>,
    /// The journal's fill, 0 to 1, at the secondary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_used: Option<f64>,
    /// The delay that is now put on host writes, milliseconds, at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_ms: Option<u64>,
    /// Why it is in this state, where that is not PAIR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it waits for, where it does; at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Bytes in marked regions: what a restart now would have to compare or copy; at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_bytes: Option<u64>,
    /// Of these, bytes that only a resync brings to the secondary; at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_bytes: Option<u64>,
    /// The number of the resync that is under way or was interrupted; at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<u64>,
    /// After how long a resync begins by itself, milliseconds, where one will; at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_ms: Option<u64>,
    /// How far copying is, where something is copied; at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyInfo>,
    /// The last online verify since the process started, all pairs together; at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyInfo>,
    /// Its spill, if it has one; at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill: Option<SpillInfo>,
    /// The resync under way, at the secondary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitInfo>,
    /// The overlay's device, at the secondary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<String>,
    /// The overlay's fill, 0 to 1, at the secondary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_used: Option<f64>,
    /// How far the volumes stay behind by the operator's wish, seconds, at the secondary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply_delay_s: Option<u64>,
    /// Where a takeover may go to, at the secondary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// The newest bookmarks, at the secondary; a takeover can go to those inside the window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bookmarks: Vec<BookmarkInfo>,
    /// Pairs whose first copy is not complete, at the secondary: a takeover leaves them out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copying: Vec<String>,
    /// The group's test, where it is under test here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<TestInfo>,
    /// Whether both sides were accepted to go on, and somebody must still choose one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub split_accepted: bool,
}

/// `group_test_start`, at the secondary: a writable view of all the group's volumes at one moment, for hosts, while
/// replication goes on. Answers the bdevs that show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupTestStart {
    /// The group.
    pub name: String,
    /// The bdev for what changes meanwhile, here or at the hosts of the test, which the test claims; what it holds is lost.
    /// When it is full the test fails.
    pub store: String,
    /// Which moment: as for `group_takeover`.
    pub at: Option<TakeoverPoint>,
}

/// `group_test_stop`: ends a test; what its hosts wrote is gone. -16 while a namespace shows one of its bdevs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupTestStop {
    /// The group.
    pub name: String,
}

/// A volume under test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestVolume {
    /// The pair.
    pub pair: String,
    /// The bdev that shows it: the secondary volume's name and `@test`.
    pub name: String,
    /// Its UUID, new with each test: no host takes it for the volume.
    pub uuid: Uuid,
    /// Its NGUID.
    pub nguid: Nguid,
}

/// How far a test is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TestState {
    /// What the volumes lack of the moment is being read from the journal.
    Loading,
    /// Hosts may use it.
    Ready,
    /// Its hosts get errors; the reason says why.
    Failed,
}

/// A group's test as `group_get` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestInfo {
    /// How far it is.
    pub state: TestState,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The moment that it shows, nanoseconds on the group's timeline.
    pub cut_ns: u64,
    /// How old that is, milliseconds; never below the true age.
    pub age_ms: u64,
    /// The store's bdev.
    pub store: String,
    /// Room in it, bytes.
    pub store_bytes: u64,
    /// Of these, used.
    pub store_used_bytes: u64,
    /// The bdevs that show it.
    pub volumes: Vec<String>,
}

/// What the operator vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OldPrimary {
    /// No host writes to the old primary any more, and none will.
    Fenced,
}

/// `group_takeover`: makes the secondary's volumes writable at the recovery point. Needs no peer. Called again after a
/// crash it goes on where it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupTakeover {
    /// The group.
    pub name: String,
    /// The operator's word that the old primary is out.
    pub old_primary: Option<OldPrimary>,
    /// Or: go on even so; both sides may then be written to, and one will have to be given up.
    pub accept_split: Option<bool>,
    /// To which moment: a time within the group's window, nanoseconds on its timeline, or a bookmark's name; default the
    /// newest, the recovery point.
    pub at: Option<TakeoverPoint>,
}

impl GroupTakeover {
    pub(super) fn check(&self) -> Result<(), String> {
        match (self.old_primary, self.accept_split.unwrap_or(false)) {
            (Some(_), true) => Err("give old_primary \"fenced\" or accept_split, not both".to_owned()),
            (None, false) => {
                Err("a takeover while hosts can still write to the old primary makes two histories; fence it \
                                  and give old_primary \"fenced\", or give accept_split true to go on all the same"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// What a takeover kept and what it could not: the answer of `group_takeover`.
///
/// What is beyond `highest_announced` is unknown: the old primary may have answered hosts for more than it could send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossCertificate {
    /// The group.
    pub group: String,
    /// The volumes are exactly the old primary's history up to this time, nanoseconds on the group's timeline.
    pub recovery_point_ns: u64,
    /// How far the timeline may be from the old primary's clock, nanoseconds.
    pub clock_error_ns: u64,
    /// The new generation.
    pub generation: Generation,
    /// What each stream lost.
    pub streams: Vec<StreamLoss>,
    /// The volumes under their new identities.
    pub volumes: Vec<TakenVolume>,
    /// Pairs whose first copy was not complete: they hold no moment of the past, and serve no hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub never_consistent: Vec<String>,
    /// Whether the takeover was made without the old primary being fenced.
    #[serde(default)]
    pub split_accepted: bool,
}

/// What one stream lost in a takeover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamLoss {
    /// The stream.
    pub stream: u64,
    /// Its epoch.
    pub epoch: u64,
    /// The last number applied.
    pub last_applied: u64,
    /// Every number received but not applied.
    pub seen_not_applied: Vec<SeqRange>,
    /// The greatest number a record or beacon had named. Above `last_applied` and not in `seen_not_applied`: lost unseen.
    pub highest_announced: u64,
}

/// Sequence numbers from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each says itself")]
pub struct SeqRange {
    pub first: u64,
    pub last: u64,
}

/// A volume after a takeover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenVolume {
    /// The replica device's name.
    pub name: String,
    /// Its new UUID.
    pub uuid: Uuid,
    /// Its new NGUID.
    pub nguid: Nguid,
}
