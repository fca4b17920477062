//! Groups of scope `pair` with as many streams as an operator may want.

use longrun_rpc::methods::pair::PairState;
use longrun_tests::process::{Longrun, eventually};
use longrun_tests::sites::{GROUP, Options, Sites, group};
use serde_json::json;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

/// A pair on a volume in memory.
fn pair(system: &Longrun, index: usize) -> Result<(), String> {
    let (name, volume) = (format!("more{index}"), format!("more-medium{index}"));
    system.call("bdev_malloc_create", json!({"name": volume, "num_blocks": 64, "block_size": 4096}));
    let pair = json!({"group": GROUP, "name": name, "volume": volume});
    system.try_call("pair_create", pair).map(|_| ()).map_err(|error| error.to_string())
}

/// Adds pairs until there are so many, or one is refused.
fn grow(sites: &Sites, from: usize, to: usize) -> Result<(), String> {
    std::thread::scope(|scope| {
        let far = scope.spawn(|| (from..to).try_for_each(|index| pair(&sites.secondary, index)));
        let near = (from..to).try_for_each(|index| pair(&sites.primary, index));
        near.and(far.join().unwrap())
    })
}

fn copies_of(streams: usize, memory_mib: &'static str) {
    let flags: &[&str] = Box::leak(Box::new(["--memory-mib", memory_mib]));
    let mut sites = Sites::paired(&Options { scope: "pair", secondary_flags: flags, ..Options::default() });
    grow(&sites, 2, streams).unwrap();
    sites.wait_until_paired();
    let observer = sites.observe_primary();
    let load = sites.load(2 * MIB, 31);
    load.wait_for_writes(200);
    sites.wait_until_caught_up();
    let info = group(&sites.primary);
    assert_eq!(info.state, PairState::Pair, "{info:?}");
    sites.kill_and_take_over(load, observer, Duration::from_secs(20));
}

#[test]
fn a_group_of_256_pairs_with_a_stream_each_copies_and_is_taken_over_at_a_cut() {
    copies_of(256, "1544");
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn a_group_of_1024_pairs_with_a_stream_each_copies_and_is_taken_over_at_a_cut() {
    copies_of(1024, "6160");
}

#[test]
fn a_stream_that_the_memory_has_no_room_for_is_refused_with_what_to_change() {
    // Room for four streams, two of which are there.
    let sites =
        Sites::paired(&Options { scope: "pair", secondary_flags: &["--memory-mib", "32"], ..Options::default() });
    std::thread::scope(|scope| {
        scope.spawn(|| (2..6).map(|index| pair(&sites.secondary, index)).collect::<Vec<_>>());
        let _ = (2..6).map(|index| pair(&sites.primary, index)).collect::<Vec<_>>();
    });
    eventually("the sentence", PATIENCE, || {
        let said = sites.primary.call("group_get", json!({"name": GROUP})).to_string();
        let said = said + &sites.primary.call("pair_get", json!({})).to_string() + &sites.primary.log();
        if said.contains("--memory-mib") { Ok(()) } else { Err(said) }
    });
}
