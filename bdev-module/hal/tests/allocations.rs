//! Each thread's use of the allocator is counted, and no other's.

use longrun_hal::alloc::{Counting, calls};
use longrun_hal::clock::{Timeline, TimelineConfig};
use std::hint::black_box;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_thread_counts_what_it_allocates_grows_and_frees() {
    let before = calls();
    let mut numbers: Vec<u8> = black_box(Vec::with_capacity(8));
    assert_eq!(calls() - before, 1);
    numbers.reserve_exact(4096);
    assert_eq!(calls() - before, 2);
    drop(black_box(numbers));
    assert_eq!(calls() - before, 3);
    let zeroes = black_box(vec![0_u8; 64]);
    assert_eq!(calls() - before, 4);
    let elsewhere = std::thread::spawn(move || {
        let before = calls();
        drop(zeroes);
        calls() - before
    });
    assert_eq!(elsewhere.join().unwrap(), 1, "a thread counts what it frees of another's");
}

#[test]
fn reading_the_timeline_takes_no_memory_and_frees_none() {
    let timeline = Timeline::start(TimelineConfig { floor_ns: 0, error_bound_ns: 0, slew_ppm_max: 500 });
    let mut reader = timeline.reader();
    // Over several changes of its rate.
    for _ in 0..30 {
        timeline.discipline();
        std::thread::sleep(Duration::from_millis(40));
        let before = calls();
        black_box(reader.now_ns());
        assert_eq!(calls(), before);
    }
}
