//! Benchmarks, each beside its floor in the same run: `cargo bench -p longrun-benches`.
//!
//! | bench | what | beside |
//! | --- | --- | --- |
//! | `ring` | a message through the single-producer ring between two cores' ends, on one core | the many-to-one queue that the control plane uses; a `VecDeque` |
//! | `stamp` | a stamp for one stream, and a fenced clock read | a bare counter |
//! | `merge` | what waits for the limit time, for 1 to 65,536 streams, from its arrival to its release | a `BinaryHeap` over the streams; the same records without an order |
//! | `frame` | a 4 KiB record through the link: into datagrams, out of them, and acknowledged | the copy and the CRC32C or AES-256-GCM of as much |
//! | `pdu` | a 4 KiB write's command capsule read, and its response put together | the same bytes copied, and their digests |
//! | `journal` | released records until their group commits are durable on a file | the same file written in order, with a flush as often, and with one at the end |
//! | `end_to_end` | a 4 KiB write through both engines, each system's share | the copies of the block that nothing avoids |
//! | `blocks` | 4 KiB writes at depth 128 through one core's block layer: without a copy, and with one whose datagrams go to a null link | the copy of the block, its CRC32C, both |

pub mod cores;
pub mod systems;

use std::time::Duration;

/// What this thread has used: on a shared machine, time on the wall is others' too.
pub fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
