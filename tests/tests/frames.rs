//! Links with raw frames.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use longrun::lab::cable::Cable;
use longrun_rpc::types::PublicKey;
use longrun_tests::network::in_own_network;
use longrun_tests::process::{Longrun, PATIENCE, eventually, free_udp};
use serde_json::{Value, json};

fn key_of(system: &Longrun) -> PublicKey {
    longrun::identity::generate(&system.directory().join("link.key")).unwrap()
}

fn link(system: &Longrun, local: SocketAddr, remote: SocketAddr, remote_key: PublicKey) -> Value {
    json!({"name": "l", "local_addr": local, "remote_addr": remote, "remote_public_key": remote_key,
           "private_key_file": system.directory().join("link.key")})
}

fn link_of(system: &Longrun) -> Value {
    system.call("link_get", json!({"name": "l"}))[0].clone()
}

/// Waits until the link is up and goes by this transport.
fn up_by(system: &Longrun, transport: &str) -> Value {
    eventually(&format!("a link by {transport}"), PATIENCE, || {
        let link = link_of(system);
        if link["transport"] == transport && link["state"] == "up" { Ok(link) } else { Err(link.to_string()) }
    })
}

#[test]
fn a_link_that_cannot_have_raw_frames_works_by_udp_and_says_why() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [a, b] = directories.each_ref().map(|directory| Longrun::start(directory.path()));
    let (local, remote) = (free_udp(), free_udp());
    let keys = [&a, &b].map(key_of);
    let mut raw = link(&a, local, remote, keys[1]);
    (raw["transport"], raw["interface"]) = ("xdp".into(), "no-such-one".into());
    a.call("link_create", raw);
    b.call("link_create", link(&b, remote, local, keys[0]));
    let link = up_by(&a, "udp");
    let reason = link["transport_reason"].as_str().unwrap();
    assert!(reason.contains("no interface no-such-one here, only") && reason.contains("lo"), "{reason}");
    assert!(a.log().contains("link l goes by UDP instead of raw frames"), "{}", a.log_end());
    let shown = a.command(&["link", "get", "l"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("udp instead of xdp: there is no interface"), "{shown}");
    assert_eq!(up_by(&b, "udp").get("transport_reason"), None);
}

#[test]
fn raw_frames_go_with_their_interface_and_come_back_with_it() {
    if !in_own_network("raw_frames_go_with_their_interface_and_come_back_with_it") {
        return;
    }
    let ip = |arguments: &str| assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
    ip("link set lo up");
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let cable = Cable::new(1);
    let far = Longrun::start_behind(directories[1].path(), &cable);
    let near = Longrun::start(directories[0].path());
    let keys = [&near, &far].map(key_of);
    let ends = [cable.near(), cable.far()].map(|ip| SocketAddr::from((ip, 4700)));
    let raw = |system, local, remote, key, interface: &str| {
        let mut raw = link(system, local, remote, key);
        (raw["transport"], raw["interface"]) = ("xdp".into(), interface.into());
        raw
    };
    near.call("link_create", raw(&near, ends[0], ends[1], keys[1], "wire1"));
    far.call("link_create", raw(&far, ends[1], ends[0], keys[0], Cable::FAR_INTERFACE));
    up_by(&far, "xdp");
    let before = up_by(&near, "xdp");
    assert_eq!(before["raw"]["mode"], "copy");
    eventually("raw frames both ways", Duration::from_secs(20), || {
        let raw = [&near, &far].map(|system| link_of(system)["raw"].clone());
        let flow =
            raw.iter().all(|raw| raw["frames_sent"].as_u64() > Some(2) && raw["frames_received"].as_u64() > Some(2));
        if flow { Ok(()) } else { Err(format!("{raw:?}")) }
    });
    // Nothing else can be had by this name: the configuration brings it back.
    near.save_config();
    let saved = std::fs::read_to_string(directories[0].path().join("config.json")).unwrap();
    assert!(saved.contains("\"transport\": \"xdp\"") && saved.contains("\"interface\": \"wire1\""), "{saved}");

    ip("link set wire1 down");
    eventually("that it is noticed", PATIENCE, || match link_of(&near) {
        link if link["transport"] == "udp" && link["transport_reason"].to_string().contains("ip link set wire1 up") => {
            Ok(())
        }
        link => Err(link.to_string()),
    });
    ip("link set wire1 up");
    up_by(&near, "xdp");
    up_by(&far, "xdp");
}
