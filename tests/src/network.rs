//! Tests that need a network of their own.

use longrun::lab::cable::Cable;

/// Tells the test that it runs in a network of its own.
const INSIDE: &str = "LONGRUN_TEST_IN_OWN_NETWORK";

/// Whether this process may make networks. If not, it says what to do: that is for the test's log, it is not a failure.
pub fn may_have_own() -> bool {
    let may = longrun::lab::cable::may_make_networks();
    if !may {
        eprintln!("skipped: networks of their own need root; run as root to have this tested");
    }
    may
}

/// Runs the test of this name, whose body this is, once more in a network of its own; true there. False outside, where the
/// body has nothing left to do.
///
/// # Panics
///
/// Outside, if the test failed inside.
pub fn in_own_network(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !may_have_own() {
        return false;
    }
    let mut again = Cable::command(std::env::current_exe().unwrap());
    let status =
        again.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status().expect("unshare, of util-linux");
    assert!(status.success(), "{test} failed in a network of its own: {status}");
    false
}
