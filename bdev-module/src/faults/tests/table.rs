//! The table says what is so: each row is whole, and its test is there.

use std::collections::BTreeSet;
use std::path::Path;

const TABLE: &str = include_str!("../../../FAULTS.md");
const COLUMNS: usize = 7;

/// What a row's path is short for.
const PLACES: [(&str, &str); 4] = [
    ("bdev/", "bdev-module/src/"),
    ("copy/", "bdev-module/copy/src/"),
    ("app/", "target-app/src/"),
    ("tests/", "tests/tests/"),
];

fn rows() -> Vec<Vec<&'static str>> {
    let lines = TABLE.lines().filter(|line| line.starts_with('|'));
    let cells = lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    cells.filter(|cells| cells[0] != "device" && cells[0] != "---").collect()
}

/// Path and name of a row's test.
fn test_of(row: &[&'static str]) -> (String, &'static str) {
    let quoted: Vec<&str> = row[COLUMNS - 1].split('`').collect();
    let [_, short, _, name, _] = quoted[..] else { panic!("not `path` `test`: {row:?}") };
    let (prefix, long) = PLACES.iter().find(|(prefix, _)| short.starts_with(prefix)).expect("a known place");
    (format!("{long}{}", &short[prefix.len()..]), name)
}

/// Whether this source has this test: its name as a function right below the attribute that makes it one, or a property.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let begins = format!("fn {name}(");
    let at = lines.iter().position(|line| line.starts_with(&begins));
    at.is_some_and(|at| lines[at.saturating_sub(3)..at].contains(&"#[test]"))
}

#[test]
fn every_row_is_whole_and_its_test_is_there_and_no_other_rows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for row in rows() {
        if row.len() != COLUMNS || row.iter().any(|cell| cell.is_empty()) {
            wrong.push(format!("{} cells, or an empty one: {row:?}", row.len()));
            continue;
        }
        let (path, name) = test_of(&row);
        if !seen.insert(name) {
            wrong.push(format!("{name} is the test of two rows"));
        }
        match std::fs::read_to_string(root.join(&path)) {
            Ok(source) if has_test(&source, name) => {}
            Ok(_) => wrong.push(format!("{path} has no test {name}")),
            Err(error) => wrong.push(format!("{path}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_device_has_a_row_for_every_kind_of_fault_that_it_can_have() {
    let rows = rows();
    let devices = [
        ("any file", &["short", "vanishes", "ENOSPC"][..]),
        ("volume of a primary", &["EIO once", "EIO for ever", "ENOSPC", "torn", "bit rot", "vanishes"]),
        ("volume of a secondary", &["EIO a few", "EIO for ever", "ENOSPC", "torn", "bit rot", "vanishes"]),
        ("journal", &["EIO for ever", "ENOSPC", "torn", "bit rot", "vanishes"]),
        ("spill", &["EIO for ever", "ENOSPC", "torn", "bit rot"]),
        ("metadata", &["EIO at a flush", "EIO for ever", "ENOSPC", "torn", "bit rot", "vanishes"]),
        ("key file", &["ENOSPC", "torn", "bit rot", "vanishes"]),
        ("configuration", &["ENOSPC", "bit rot", "vanishes"]),
    ];
    for (device, faults) in devices {
        for fault in faults {
            let is_there = rows.iter().any(|row| row[0].contains(device) && row[1].contains(fault));
            assert!(is_there, "{device} has no row for {fault}");
        }
    }
}

#[test]
fn a_function_that_is_no_test_is_not_taken_for_one() {
    assert!(has_test("#[test]\nfn a_name() {\n}", "a_name"));
    assert!(!has_test("fn a_name() {\n}", "a_name"));
    assert!(!has_test("#[test]\nfn a_name_of_another() {\n}", "a_name"));
}
