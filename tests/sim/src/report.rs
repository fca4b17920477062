//! What a run exercised.

use std::fmt;

macro_rules! totals {
    ($($name:ident: $text:literal,)*) => {
        /// Counts of one world, or their sum over many.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $(#[doc = $text] pub $name: u64,)*
        }

        impl Totals {
            /// Adds another world's.
            pub fn add(&mut self, other: &Totals) {
                $(self.$name += other.$name;)*
            }

            /// Every count with its name.
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$(($text, self.$name),)*]
            }
        }
    };
}

totals! {
    events: "events",
    writes: "writes, write-zeroes and unmaps answered",
    reads: "reads answered",
    flushes: "flushes answered",
    stamped: "records stamped",
    overlapping: "writes that overlapped one in flight",
    dependent: "writes that had to be stamped after a known one",
    datagrams: "datagrams sent",
    lost: "datagrams lost",
    duplicated: "datagrams duplicated",
    reordered: "datagrams overtaken",
    corrupted: "datagrams corrupted",
    partitions: "partitions",
    sessions: "sessions that came up",
    crossings: "words between a group's core and its link's",
    stalls: "preempted cores",
    secondary_crashes: "crashes of the secondary",
    torn_crashes: "crashes that lost what was not flushed",
    primary_kills: "primaries killed for good",
    primary_crashes: "primaries restarted after a crash",
    primary_restarts: "primaries restarted properly",
    no_memory: "allocations refused",
    lease_stalls: "leases that were not renewed",
    clock_steps: "wall clocks set",
    rotten: "sectors of journals that rotted",
    rotten_tails: "rotten last blocks that look like torn ones",
    marks_checked: "times that marks were compared with what the secondary lacks",
    failed_groups: "groups that said that their journal is damaged",
    refused: "operators' requests refused",
    granted: "operators' requests granted",
    disk_errors: "I/O errors at the secondary",
    failed_writes: "local writes that failed after their stamp",
    repairs: "repair records",
    unstamped: "writes of suspended groups",
    flushed_checks: "flushes that hosts rely on",
    suspended_full: "groups suspended by overflow",
    suspended_error: "groups suspended by error",
    operator_suspensions: "groups suspended by operators",
    drained_suspensions: "of these, with everything at the secondary",
    resyncs: "groups that came back from a suspension",
    units: "resyncs that ended at a secondary",
    copies: "copy records",
    never_consistent: "pairs left out of a takeover",
    throttled: "times a group was seen slowing its hosts",
    half_full: "times a journal was seen more than half full",
    full: "times a journal was seen full of a resync",
    overlaid: "times a resync was seen in an overlay",
    overlay_full: "times an overlay was seen full",
    restores: "times a takeover was seen restoring from an overlay",
    spilling: "times a spill was seen holding records",
    spill_full: "times a spill was seen full",
    replaying: "times a spill was seen being sent after a crash",
    journal_wraps: "journals that went once around",
    rekeys: "worlds that agreed on new keys",
    forks: "takeovers of a copy of the world, crashed at some event",
    takeovers: "takeovers",
    chosen_points: "takeovers at a chosen point",
    takeover_crashes: "crashes during takeovers",
    swaps: "swaps",
    failbacks: "failbacks",
    exchange_writes: "writes while sites exchange their parts",
    exchange_crashes: "crashes while sites exchange their parts",
    fenced: "old primaries fenced",
    created_anew: "worlds whose groups were deleted and created again",
    grown: "times that hosts saw a larger pair",
    resized: "requests for a larger pair that were done",
    altered: "times that a copy was altered",
    verified: "verifies of a pair",
    verified_differing: "pieces that they listed",
    views: "test views",
    view_reads: "reads of views that were compared",
    view_writes: "writes to views",
    quiet: "worlds that caught up after the faults stopped",
    bytes_compared: "bytes compared",
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in self.rows() {
            writeln!(f, "{count:>12}  {name}")?;
        }
        Ok(())
    }
}
