//! JSON-RPC requests: every method, with parameters where it has some that matter, alone, several, and as a batch.

use longrun_rpc::methods::{Call, METHODS};

/// Calls with parameters.
const CALLS: &[(&str, &str)] = &[
    ("bdev_malloc_create", r#"{"name":"m0","num_blocks":2048,"block_size":512}"#),
    ("bdev_null_create", r#"{"name":"n0","num_blocks":2048,"block_size":4096}"#),
    ("bdev_uring_create", r#"{"name":"u0","filename":"/var/lib/volume","block_size":4096}"#),
    ("bdev_error_create", r#"{"base_name":"m0"}"#),
    ("bdev_error_inject_error", r#"{"name":"EE_m0","io_type":"write","error_type":"failure","num":3}"#),
    (
        "bdev_delay_create",
        r#"{"base_bdev_name":"m0","name":"d0","avg_read_latency":1,"p99_read_latency":2,"avg_write_latency":1,"p99_write_latency":2}"#,
    ),
    ("bdev_get_bdevs", r#"{"name":"m0"}"#),
    ("nvmf_create_transport", r#"{"trtype":"TCP"}"#),
    ("nvmf_create_subsystem", r#"{"nqn":"nqn.2026-11.io.longrun:s0","allow_any_host":true,"serial_number":"L1"}"#),
    ("nvmf_subsystem_add_ns", r#"{"nqn":"nqn.2026-11.io.longrun:s0","namespace":{"bdev_name":"m0","nsid":1}}"#),
    (
        "nvmf_subsystem_add_listener",
        r#"{"nqn":"nqn.2026-11.io.longrun:s0","listen_address":{"trtype":"TCP","adrfam":"IPv4","traddr":"127.0.0.1","trsvcid":"4420"}}"#,
    ),
    ("nvmf_subsystem_add_host", r#"{"nqn":"nqn.2026-11.io.longrun:s0","host":"nqn.2026-11.io.longrun:host"}"#),
    (
        "link_create",
        r#"{"name":"west","local_addr":"127.0.0.1:4700","remote_addr":"127.0.0.1:4701","security":"none","mtu_bytes":1200,"loss_tolerance":0.02}"#,
    ),
    ("group_create", r#"{"name":"g0","role":"primary","link":"west","sequence_scope":"pair","throttle_ms_max":50}"#),
    ("group_create", r#"{"name":"g0","role":"secondary","link":"east","journal":"j0"}"#),
    ("group_takeover", r#"{"name":"g0","old_primary":"fenced"}"#),
    ("pair_create", r#"{"group":"g0","name":"p0","volume":"m0","declared_identical":true}"#),
    ("log_set_level", r#"{"level":"debug"}"#),
    ("spdk_kill_instance", r#"{"sig_name":"SIGTERM"}"#),
];

fn request(id: usize, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

/// Valid requests.
///
/// # Panics
/// If one of the calls with parameters is no longer one: then this table has to follow.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut requests: Vec<String> = METHODS.iter().enumerate().map(|(id, name)| request(id, name, "{}")).collect();
    for (id, (method, params)) in CALLS.iter().enumerate() {
        let value = params.parse().expect("JSON");
        Call::parse(method, value).unwrap_or_else(|error| panic!("{method}: {error:?}"));
        requests.push(request(id, method, params));
    }
    let mut seeds: Vec<Vec<u8>> = requests.iter().map(|request| request.clone().into_bytes()).collect();
    seeds.push(requests.concat().into_bytes());
    seeds.push(format!("[{}]", requests.join(", ")).into_bytes());
    seeds.push(
        br#"{"jsonrpc":"2.0","method":"a \"quoted\" name \u00e9","params":[1,-2.5e3,null,{"x":[true]}]}"#.to_vec(),
    );
    seeds
}
