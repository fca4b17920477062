//! A pair that grows while a host uses it.

use longrun_nvmf::host::{Command, ControllerEvent};
use longrun_rpc::error::code;
use longrun_rpc::methods::pair::PairState;
use longrun_tests::load::{HOST_NQN, Watcher, read_back, with_queue};
use longrun_tests::process::{Longrun, eventually};
use longrun_tests::sites::{GROUP, Options, PRIMARY_NQN, SECONDARY_NQN, Sites, VOLUMES, group};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn grow(system: &Longrun, bytes: u64) -> u64 {
    let path = system.directory().join(format!("medium-{}", VOLUMES[0]));
    OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
    let has = system.call("bdev_uring_rescan", json!({"name": format!("medium-{}", VOLUMES[0])}));
    has.as_u64().unwrap()
}

fn size_bytes(system: &Longrun) -> Value {
    system.call("pair_get", json!({"group": GROUP, "name": VOLUMES[0]}))[0]["size_bytes"].clone()
}

fn blocks(system: &Longrun) -> Value {
    system.call("bdev_get_bdevs", json!({"name": VOLUMES[0]}))[0]["num_blocks"].clone()
}

#[test]
fn a_pair_grows_under_a_host_that_is_told_and_the_new_blocks_are_copied() {
    let mut sites = Sites::paired(&Options::default());
    let mut watcher = Watcher::connect(sites.primary_target().to, HOST_NQN, PRIMARY_NQN);
    assert!(matches!(watcher.next_event(), ControllerEvent::Ready(_)));
    let load = sites.load(2 * MIB, 81);
    load.wait_for_writes(100);
    let resize = json!({"group": GROUP, "name": VOLUMES[0]});
    // Nothing has grown; then only one side has.
    let error = sites.primary.refused("pair_resize", resize.clone());
    assert!(error.code == code::INVALID_PARAMS && error.message.contains("only grows"), "{error}");
    assert_eq!(grow(&sites.primary, 12 * MIB), 3072);
    assert_eq!(blocks(&sites.primary), 2048, "hosts see the pair's size, not its volume's");
    let error = sites.primary.refused("pair_resize", resize.clone());
    assert!(error.message.contains("at the secondary has 2048 blocks"), "{error}");
    let error = sites.secondary.refused("pair_resize", resize.clone());
    assert_eq!(error.code, code::WRONG_STATE, "{error}");
    assert_eq!(grow(&sites.secondary, 16 * MIB), 4096);
    let error = sites.primary.refused("pair_resize", json!({"group": GROUP, "name": VOLUMES[0], "num_blocks": 4096}));
    assert!(error.message.contains("has 3072 blocks of 4096 bytes here"), "{error}");
    for wrong in [json!(0), json!(-1), json!("8"), json!(1.5)] {
        let error =
            sites.primary.refused("pair_resize", json!({"group": GROUP, "name": VOLUMES[0], "num_blocks": wrong}));
        assert_eq!(error.code, code::INVALID_PARAMS, "{error}");
    }
    assert_eq!(sites.primary.call("pair_resize", resize.clone()), 3072);
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let ControllerEvent::Namespaces(now) = watcher.next_event() else { continue };
        if now.iter().any(|namespace| (namespace.nsid, namespace.blocks) == (1, 3072)) {
            break;
        }
        assert!(std::time::Instant::now() < until, "{now:?}");
    }
    eventually("the secondary to show the same", PATIENCE, || {
        let shown = (blocks(&sites.secondary), size_bytes(&sites.secondary));
        if shown == (json!(3072), json!(12 * MIB)) { Ok(()) } else { Err(format!("{shown:?}")) }
    });
    let outcome = load.finish();
    assert_eq!((outcome.errors, &outcome.first_error), (0, &None));
    assert_eq!(group(&sites.primary).state, PairState::Pair);
    with_queue(sites.primary_target(), async |queue, namespaces| {
        assert_eq!(namespaces[0].blocks, 3072);
        for lba in [2048, 2500, 3071] {
            let write = Command::write(1, lba, 1, vec![0xc7; 4096], false);
            assert!(queue.execute(write).await.unwrap().completion.status.is_success());
        }
        let beyond = Command::write(1, 3072, 1, vec![0xc7; 4096], false);
        assert!(!queue.execute(beyond).await.unwrap().completion.status.is_success());
    });
    // Both come back with the new size.
    sites.primary.kill();
    sites.secondary.kill();
    sites.secondary.start_again();
    sites.primary.start_again();
    sites.wait_until_paired();
    assert_eq!((size_bytes(&sites.primary), size_bytes(&sites.secondary)), (json!(12 * MIB), json!(12 * MIB)));
    sites.wait_until_caught_up();
    let (shape, at_primary) = read_back(sites.primary_target(), sites.contents);
    assert_eq!(shape[0].blocks, 3072);
    sites.primary.kill();
    sites.take_over();
    sites.export_secondary();
    let (shape, at_secondary) = read_back(sites.secondary_target(), sites.contents);
    assert_eq!(shape[0].blocks, 3072);
    assert!(at_primary == at_secondary, "the two sides' blocks differ");
    sites.secondary.stop();
    let held = |system: &Longrun| std::fs::read(system.directory().join("medium-volume0")).unwrap();
    let (mut here, mut there) = (held(&sites.primary), held(&sites.secondary));
    here.truncate(12 << 20);
    there.truncate(12 << 20);
    assert!(here == there && here[8 << 20] == 0xc7, "the volumes differ");
}

#[test]
fn a_volume_without_a_pair_grows_with_its_file_and_its_host_is_told_and_what_cannot_grow_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let system = Longrun::start(directory.path());
    system.create_volume("u0", MIB, 4096);
    system.call("bdev_malloc_create", json!({"name": "m0", "num_blocks": 64, "block_size": 512}));
    let to = longrun_tests::process::free_tcp();
    system.export(PRIMARY_NQN, &["u0"], to);
    let mut watcher = Watcher::connect(to, HOST_NQN, PRIMARY_NQN);
    assert!(matches!(watcher.next_event(), ControllerEvent::Ready(_)));
    let file = OpenOptions::new().write(true).open(directory.path().join("u0")).unwrap();
    file.set_len(2 * MIB + 100).unwrap();
    assert_eq!(system.call("bdev_uring_rescan", json!({"name": "u0"})), 512);
    let ControllerEvent::Namespaces(now) = watcher.next_event() else { panic!("not told of the size") };
    assert_eq!(now[0].blocks, 512);
    // What stands on a volume grows with it.
    system.create_volume("u1", MIB, 4096);
    let latency = json!({"base_bdev_name": "u1", "name": "d1", "avg_read_latency": 1, "p99_read_latency": 1,
        "avg_write_latency": 1, "p99_write_latency": 1});
    system.call("bdev_delay_create", latency);
    system.export(SECONDARY_NQN, &["d1"], longrun_tests::process::free_tcp());
    OpenOptions::new().write(true).open(directory.path().join("u1")).unwrap().set_len(2 * MIB).unwrap();
    assert_eq!(system.call("bdev_uring_rescan", json!({"name": "u1"})), 512);
    assert_eq!(system.call("bdev_get_bdevs", json!({"name": "d1"}))[0]["num_blocks"], 512);
    file.set_len(MIB).unwrap();
    let error = system.refused("bdev_uring_rescan", json!({"name": "u0"}));
    assert!(error.message.contains("cut off"), "{error}");
    for (name, says) in [("m0", "malloc"), ("x0", "no bdev named")] {
        let error = system.refused("bdev_uring_rescan", json!({"name": name}));
        assert!(error.message.contains(says), "{error}");
    }
}
