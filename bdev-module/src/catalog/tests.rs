use super::*;
use crate::testing::malloc;

fn error(base: &str) -> Spec {
    Spec::Error { base_name: base.to_owned(), uuid: None }
}

fn refusal(catalog: &mut Catalog, spec: Spec) -> (i32, String) {
    let before = format!("{catalog:?}");
    let error = catalog.create(spec, 0).unwrap_err();
    assert_eq!(format!("{catalog:?}"), before, "a refusal changed something");
    (error.errno(), error.to_string())
}

#[test]
fn names_that_were_not_given_are_the_first_that_are_free() {
    let mut catalog = Catalog::new();
    let unnamed = || Spec::Malloc { name: None, num_blocks: 8, block_size: 512, uuid: None };
    catalog.create(malloc("Malloc1", 8, 512), 0).unwrap();
    assert_eq!(catalog.create(unnamed(), 0).unwrap().name, "Malloc0");
    assert_eq!(catalog.create(unnamed(), 0).unwrap().name, "Malloc2");
}

#[test]
fn a_bdev_is_found_by_name_and_by_uuid() {
    let mut catalog = Catalog::new();
    let id = catalog.create(malloc("m", 8, 512), 3).unwrap().device.id();
    let entry = catalog.named("m").unwrap();
    assert_eq!((entry.id, entry.home, entry.kind), (id, 3, Kind::Malloc));
    let uuid = entry.uuid.to_string();
    assert_eq!(catalog.named(&uuid).unwrap().id, id);
    assert_eq!(catalog.named("x").unwrap_err().errno(), libc::ENODEV);
}

#[test]
fn taken_names_and_uuids_are_refused() {
    let mut catalog = Catalog::new();
    let uuid = Some(Uuid::from_u128(5));
    catalog.create(Spec::Malloc { name: Some("m".into()), num_blocks: 8, block_size: 512, uuid }, 0).unwrap();
    let (errno, text) = refusal(&mut catalog, malloc("m", 8, 512));
    assert_eq!(errno, libc::EEXIST);
    assert_eq!(text, "name m is taken by bdev m; choose another or delete that bdev first");
    let twin = Spec::Null { name: "n".into(), num_blocks: 8, block_size: 512, uuid };
    let (errno, text) = refusal(&mut catalog, twin);
    assert_eq!(errno, libc::EEXIST);
    assert!(text.starts_with("uuid 00000000-0000-0000-0000-000000000005 is taken by bdev m"), "{text}");
}

#[test]
fn parameters_that_do_not_fit_are_refused_with_what_was_expected() {
    let mut catalog = Catalog::new();
    for (spec, expected) in [
        (malloc("m", 8, 520), "block_size is 520, expected 512 or 4096"),
        (malloc("m", 0, 512), "num_blocks is 0, expected 1 to 18014398509481983"),
        (malloc("", 8, 512), "name is \"\", expected 1 to 255 bytes without control characters"),
        (malloc("a\nb", 8, 512), "name is \"a\\nb\", expected 1 to 255 bytes without control characters"),
    ] {
        assert_eq!(refusal(&mut catalog, spec), (libc::EINVAL, expected.to_owned()));
    }
    catalog.create(malloc("m", 8, 512), 0).unwrap();
    let latencies = Latencies { avg_read_us: 10, p99_read_us: 9, ..Latencies::default() };
    let spec = Spec::Delay { name: "d".into(), base_bdev_name: "m".into(), latencies, uuid: None };
    let expected = "p99_read_latency is 9 us, expected avg_read_latency (10 us) to 600000000 us";
    assert_eq!(refusal(&mut catalog, spec), (libc::EINVAL, expected.to_owned()));
}

#[test]
fn a_malloc_bdev_larger_than_memory_is_refused_with_a_sentence() {
    let mut catalog = Catalog::new();
    let (errno, text) = refusal(&mut catalog, malloc("big", 1 << 40, 512));
    assert_eq!(errno, libc::ENOMEM);
    assert!(text.starts_with("bdev big: 562949953421312 bytes asked for, "), "{text}");
    assert!(text.ends_with("make the bdev smaller or delete another"), "{text}");
}

#[test]
fn media_that_cannot_be_used_are_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::new();
    let uring = |name: &str, file: &str, block_size| Spec::Uring {
        name: name.to_owned(),
        filename: directory.path().join(file),
        block_size,
        uuid: None,
    };
    assert_eq!(refusal(&mut catalog, uring("d", "nothing", None)).0, libc::ENOENT);
    assert_eq!(refusal(&mut catalog, uring("d", "", None)).0, libc::EINVAL);
    std::fs::write(directory.path().join("small"), [0; 511]).unwrap();
    let (errno, text) = refusal(&mut catalog, uring("d", "small", None));
    assert_eq!(errno, libc::EINVAL);
    assert!(text.contains("holds 511 bytes, less than one block of 512; give it its size first"), "{text}");
    std::fs::write(directory.path().join("file"), [0; 10000]).unwrap();
    let created = catalog.create(uring("d", "file", Some(4096)), 0).unwrap();
    assert_eq!(created.device.geometry(), Geometry { blocks: 2, block_bytes: 4096 });
    let (errno, text) = refusal(&mut catalog, uring("e", "file", None));
    assert_eq!(errno, libc::EBUSY);
    assert!(text.contains("is in use by another bdev or another process"), "{text}");
    // By another name the lock finds it.
    std::fs::hard_link(directory.path().join("file"), directory.path().join("link")).unwrap();
    assert_eq!(refusal(&mut catalog, uring("e", "link", None)).0, libc::EBUSY);
    // Deleted, it is free again.
    let id = created.device.id();
    drop(created);
    catalog.remove(id);
    catalog.create(uring("e", "file", None), 0).unwrap();
}

#[test]
fn a_files_bdev_has_the_same_uuid_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let filename = directory.path().join("file");
    std::fs::write(&filename, [0; 8192]).unwrap();
    let uuid = |filename: &PathBuf| {
        let mut catalog = Catalog::new();
        let spec = Spec::Uring { name: "d".into(), filename: filename.clone(), block_size: None, uuid: None };
        catalog.create(spec, 0).unwrap();
        catalog.named("d").unwrap().uuid
    };
    assert_eq!(uuid(&filename), uuid(&filename));
    let other = directory.path().join("other");
    std::fs::write(&other, [0; 8192]).unwrap();
    assert_ne!(uuid(&filename), uuid(&other));
}

#[test]
fn a_claimed_bdev_is_neither_stacked_on_nor_exported_nor_deleted() {
    let mut catalog = Catalog::new();
    catalog.create(malloc("m", 8, 512), 2).unwrap();
    let top = catalog.create(error("m"), 0).unwrap();
    assert_eq!((top.name.as_str(), top.home), ("EE_m", 2));
    let (errno, text) = refusal(&mut catalog, error("m"));
    assert_eq!(errno, libc::EEXIST, "{text}");
    let delay =
        Spec::Delay { name: "d".into(), base_bdev_name: "m".into(), latencies: Latencies::default(), uuid: None };
    let (errno, text) = refusal(&mut catalog, delay.clone());
    assert_eq!(errno, libc::EBUSY);
    assert_eq!(text, "bdev m is held by bdev EE_m; use that bdev, which stands on it, or delete it first");
    let namespace = Holder::Namespace { nqn: "nqn.x".into(), nsid: 4 };
    assert_eq!(catalog.claim("m", namespace.clone()).unwrap_err().errno(), libc::EBUSY);
    let text = catalog.check_delete("m", None).unwrap_err().to_string();
    assert_eq!(text, "bdev m is held by bdev EE_m; delete that bdev first");

    catalog.claim("EE_m", namespace.clone()).unwrap();
    let text = catalog.check_delete("EE_m", None).unwrap_err().to_string();
    assert_eq!(
        text,
        "bdev EE_m is held by namespace 4 of nqn.x; remove that namespace first (nvmf_subsystem_remove_ns)"
    );
    let top = catalog.named("EE_m").unwrap().id;
    // Only its holder lets go of it.
    catalog.release(top, &Holder::Journal { group: "g".into() });
    assert_eq!(catalog.check_delete("EE_m", None).unwrap_err().errno(), libc::EBUSY);
    catalog.release(top, &namespace);
    assert_eq!(catalog.check_delete("EE_m", Some(Kind::Error)).unwrap().id, top);
    catalog.remove(top);
    catalog.check_delete("m", Some(Kind::Malloc)).unwrap();
    catalog.create(delay, 0).unwrap();
}

#[test]
fn a_delete_by_another_kinds_method_is_refused_with_the_one_that_fits() {
    let mut catalog = Catalog::new();
    catalog.create(malloc("m", 8, 512), 0).unwrap();
    let text = catalog.check_delete("m", Some(Kind::Null)).unwrap_err().to_string();
    assert_eq!(text, "bdev m is a malloc bdev, not a null one; delete it with bdev_malloc_delete");
}

#[test]
fn a_replica_holds_its_volume_for_the_pair() {
    let mut catalog = Catalog::new();
    catalog.create(malloc("m", 8, 512), 1).unwrap();
    let replica = Spec::Replica {
        name: "r".into(),
        base_name: "m".into(),
        group: "g".into(),
        pair: "p".into(),
        uuid: Uuid::from_u128(1),
    };
    let created = catalog.create(replica, 0).unwrap();
    assert_eq!(created.home, 1);
    assert_eq!(catalog.free("m").unwrap_err().to_string(), "bdev m is held by pair p of group g; use another bdev");
    let text = catalog.check_delete("r", Some(Kind::Malloc)).unwrap_err().to_string();
    assert!(text.ends_with("delete it with pair_delete"), "{text}");
    assert_eq!(catalog.config().len(), 1, "the pair makes its replica");
    catalog.set_uuid(created.device.id(), Uuid::from_u128(9));
    assert_eq!(catalog.named("r").unwrap().uuid, Uuid::from_u128(9));
}

#[test]
fn a_view_is_as_large_as_was_said_stands_on_nothing_and_is_its_tests_to_delete() {
    let mut catalog = Catalog::new();
    let view = Spec::View {
        name: "v@test".into(),
        group: "g".into(),
        pair: "p".into(),
        num_blocks: 8,
        block_size: 4096,
        uuid: Uuid::from_u128(1),
    };
    let created = catalog.create(view, 3).unwrap();
    let entry = catalog.get(created.device.id()).unwrap();
    assert_eq!((created.home, entry.base, entry.geometry.bytes()), (3, None, 8 * 4096));
    let text = catalog.check_delete("v@test", Some(Kind::Malloc)).unwrap_err().to_string();
    assert!(text.ends_with("delete it with group_test_stop"), "{text}");
    assert_eq!(catalog.config().len(), 0, "it ends with the process");
}

#[test]
fn the_configuration_makes_the_same_bdevs_in_an_order_that_works() {
    let mut catalog = Catalog::new();
    catalog.create(malloc("m", 8, 512), 0).unwrap();
    catalog.create(Spec::Null { name: "n".into(), num_blocks: 16, block_size: 4096, uuid: None }, 0).unwrap();
    catalog.create(error("m"), 0).unwrap();
    let latencies = Latencies { avg_read_us: 1, p99_read_us: 2, avg_write_us: 3, p99_write_us: 4 };
    let delay = Spec::Delay { name: "d".into(), base_bdev_name: "EE_m".into(), latencies, uuid: None };
    catalog.create(delay, 0).unwrap();
    let config = catalog.config();
    let methods: Vec<_> = config.iter().map(|(method, _)| *method).collect();
    assert_eq!(methods, ["bdev_malloc_create", "bdev_null_create", "bdev_error_create", "bdev_delay_create"]);
    let uuid = |name: &str| catalog.named(name).unwrap().uuid.to_string();
    assert_eq!(config[0].1, serde_json::json!({ "name": "m", "num_blocks": 8, "block_size": 512, "uuid": uuid("m") }));
    assert_eq!(
        config[3].1,
        serde_json::json!({
            "base_bdev_name": "EE_m", "name": "d", "uuid": uuid("d"),
            "avg_read_latency": 1, "p99_read_latency": 2, "avg_write_latency": 3, "p99_write_latency": 4,
        })
    );
}
