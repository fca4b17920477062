//! Judges, from a host's own log, whether a copy is the past cut at one point.
//!
//! The engine that copies is not asked: a host logs when it issued each write and read and when the answer came
//! ([`history`]), every block it writes names its write ([`block`]), and after the takeover every block of every copied
//! volume is read back into an [`Image`]. [`judge`] then says whether *any* history that the host can have caused, cut
//! at the recovery point that the loss certificate states, leaves that image.
//!
//! The crate depends on no engine, no clock and no I/O, so that a fault in the engine cannot hide in the judge.
//!
//! ```
//! use longrun_checker::{judge, BlockBytes, BlockSays, Cut, Extent, History, HostTime, Image, Log, Volume};
//!
//! let volumes = [Volume { block_bytes: BlockBytes::B4096, blocks: 8 }];
//! let mut log = Log::new(0);
//! let first = log.write_issued(HostTime(10), Extent::new(0, 2, 1));
//! log.write_acknowledged(first, HostTime(20));
//! let second = log.write_issued(HostTime(30), Extent::new(0, 5, 1));
//! log.write_acknowledged(second, HostTime(40));
//! let history = History::merge(&volumes, [log]);
//!
//! // The copy has the second write but lost the first, which was answered before the second was issued.
//! let mut image = Image::all_initial(&volumes);
//! image.set(0, 5, BlockSays::Write(second));
//! let cut = Cut {
//!     recovery_point: HostTime(45),
//!     clock_error_ns: 1,
//!     killed_at: HostTime(50),
//!     age_bound_ns: 1_000,
//!     suspended: false,
//! };
//! let verdict = judge(&history, &image, &cut);
//! assert!(!verdict.order_closed);
//! ```

pub mod block;
pub mod history;
mod image;
mod judge;
mod order;

pub use block::{BlockSays, Contents, Foreign};
pub use history::{BlockBytes, Extent, History, HostTime, Log, ReadId, Volume, WriteId};
pub use image::Image;
pub use judge::{Counts, Cut, FAILURES_LISTED_MAX, Failure, Verdict, judge};

#[cfg(test)]
mod tests;
