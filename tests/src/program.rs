//! The program under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the program is: `LONGRUN_PROGRAM` if that is set, else the one that cargo builds now, with the profile and into
/// the target directory of the running test.
///
/// # Panics
///
/// If it cannot be built.
pub fn path() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("LONGRUN_PROGRAM") {
        Some(given) => given.into(),
        None => build(),
    })
}

/// `<target>/<profile>/deps/<test>` is where cargo puts the running test.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the running test has a path");
    let profile_dir = test.ancestors().nth(2).expect("the test lies in a profile's deps");
    let target_dir = profile_dir.parent().expect("the profile's directory lies in the target directory");
    let name = profile_dir.file_name().and_then(|name| name.to_str()).expect("cargo's own name");
    let profile = if name == "debug" { "dev" } else { name };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What cargo tells a test about its package is not to be taken for the built ones' own: build scripts that look at it
    // would run again, and all that depends on them would be compiled again, each time.
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_PRIMARY_"].iter().any(|p| shown.starts_with(p)) {
            command.env_remove(&name);
        }
    }
    let status = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--package", "longrun", "--bin", "longrun", "--profile", profile, "--target-dir"])
        .arg(target_dir)
        .status()
        .expect("cargo starts");
    assert!(status.success(), "longrun could not be built");
    profile_dir.join("longrun")
}
