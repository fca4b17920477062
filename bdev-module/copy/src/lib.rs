//! The remote-copy engine as state machines without I/O.
//!
//! # The life of one write
//!
//! ```text
//!  primary                                                            secondary
//!  host write                                                         frames, in any order, some twice, some never
//!    overlap   wait for in-flight writes to the same blocks             stream   slot (number - base) of the stream's ring;
//!    stamp     one time, each stream's next number                               the longest run has a tip
//!    +-> local volume -> commit wait -> answer                          merge    limit = least tip; what is not later,
//!    +-> link: fragments under congestion control and grants                     in (time, stream) order
//!              kept until durable there                                 journal  appended, many per flush -> durable
//!    <------------------------- one number per stream ----------------- ack
//!                                                                       apply    to the volumes, overlaps in order;
//!                                                                                checkpoint, then the journal is freed
//! ```
//!
//! Nothing here reads a clock, draws a random number, or touches a socket, a file or a thread: `now` is an argument, chance
//! comes as a seed, and what the engine wants from the world it asks of [`ports::Ports`], whose results come back as
//! [`ports::Event`]s. So the same code runs in a reactor, in the simulator and under fuzzers.
//!
//! | module | what it is | its law |
//! | --- | --- | --- |
//! | [`engine`] | the machine that a core runs: links, primary roles, secondary roles, and the routes between them | |
//! | [`types`], [`ports`], [`message`] | words, what is asked of the world, what two systems tell each other | |
//! | [`scope`], [`stamp`], [`overlap`] | what a number counts; the one function that stamps; who waits for whom | one stamper; a number's content is immutable |
//! | [`primary`] | pairs and groups that send: opening, writes, repair, ramp, suspension, restart, fencing | a stream that cannot take a record is broken there |
//! | [`dirty`] | which regions the secondary may lack, durably | marked before it is written, cleared when nothing needs it |
//! | [`link`] | handshake, sealed datagrams, retransmission, congestion control, the store of unacknowledged records | packet numbers are never reused |
//! | [`stream`], [`merge`] | reassembly and runs; the limit time and what it releases | never a gap that is skipped |
//! | [`journal`], [`apply`] | the log of released records; from it to the volumes, and checkpoints | a torn tail is cut, damage before the known end is reported |
//! | [`spill`] | what memory can't hold at the primary, on a device, until the link has room | whole from the first number that the secondary lacks |
//! | [`secondary`], [`takeover`] | pairs and groups that receive; taking over in steps that a crash re-enters | older generations are refused |
//! | [`role`] | from secondary to primary by takeover, and back by failback or swap; moved by [`engine`] | the secondary's record decides; never two primaries by a swap |
//! | [`blank`], [`digest`] | is a volume empty? are two the same? | |
//! | [`account`] | cycles by step, in builds with the feature `accounting` | nothing of it in other builds |
//!
//! **What the design gives up.** Everything of one engine is on one core: a group's stamps, merge and journal are what one core
//! gives, whatever its scope; only its link may be on another one. The host's answer waits for the local device, so a write is never faster than that. The newest records
//! are lost in a disaster: the copy is asynchronous, and says how old it is.

pub mod account;
pub mod apply;
pub mod blank;
mod crc;
pub mod digest;
pub mod dirty;
pub mod engine;
pub mod identity;
pub mod journal;
mod keys;
pub mod link;
pub mod merge;
pub mod message;
pub mod overlap;
pub mod ports;
pub mod primary;
pub mod role;
pub mod scope;
pub mod secondary;
mod sorted;
pub mod spill;
pub mod stamp;
pub mod stream;
pub mod takeover;
pub mod types;
