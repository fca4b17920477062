//! How specs are written as SPDK's methods and parameters.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Spec;

/// Name and uuid of a completed spec.
pub(super) fn identity(spec: &Spec) -> (String, Uuid) {
    match spec {
        Spec::Malloc { name, uuid, .. } => (name.clone().unwrap_or_default(), uuid.unwrap_or_default()),
        Spec::Null { name, uuid, .. } | Spec::Uring { name, uuid, .. } | Spec::Delay { name, uuid, .. } => {
            (name.clone(), uuid.unwrap_or_default())
        }
        Spec::Error { base_name, uuid } => (format!("EE_{base_name}"), uuid.unwrap_or_default()),
        Spec::Replica { name, uuid, .. } | Spec::View { name, uuid, .. } => (name.clone(), *uuid),
    }
}

/// The spec with the block size that its medium turned out to have, so that it comes back alike.
pub(super) fn with_block_size(mut spec: Spec, block_bytes: u32) -> Spec {
    if let Spec::Uring { block_size, .. } = &mut spec {
        *block_size = Some(block_bytes);
    }
    spec
}

/// The method and its parameters that make such a bdev; none for those that pairs and tests make.
pub(super) fn method(spec: &Spec) -> Option<(&'static str, Value)> {
    Some(match spec {
        Spec::Malloc { name, num_blocks, block_size, uuid } => (
            "bdev_malloc_create",
            json!({ "name": name, "num_blocks": num_blocks, "block_size": block_size, "uuid": uuid }),
        ),
        Spec::Null { name, num_blocks, block_size, uuid } => (
            "bdev_null_create",
            json!({ "name": name, "num_blocks": num_blocks, "block_size": block_size, "uuid": uuid }),
        ),
        Spec::Uring { name, filename, block_size, uuid } => {
            ("bdev_uring_create", json!({ "name": name, "filename": filename, "block_size": block_size, "uuid": uuid }))
        }
        Spec::Error { base_name, uuid } => ("bdev_error_create", json!({ "base_name": base_name, "uuid": uuid })),
        Spec::Delay { name, base_bdev_name, latencies, uuid } => (
            "bdev_delay_create",
            json!({
                "base_bdev_name": base_bdev_name,
                "name": name,
                "uuid": uuid,
                "avg_read_latency": latencies.avg_read_us,
                "p99_read_latency": latencies.p99_read_us,
                "avg_write_latency": latencies.avg_write_us,
                "p99_write_latency": latencies.p99_write_us,
            }),
        ),
        Spec::Replica { .. } | Spec::View { .. } => return None,
    })
}

/// What only this kind has, under the kind's name.
pub(super) fn driver_specific(spec: &Spec) -> Map<String, Value> {
    let (kind, value) = match spec {
        Spec::Malloc { .. } | Spec::Null { .. } => return Map::new(),
        Spec::Uring { filename, .. } => ("uring", json!({ "filename": filename })),
        Spec::Error { base_name, .. } => ("error", json!({ "base_bdev": base_name })),
        Spec::Delay { base_bdev_name, latencies, .. } => (
            "delay",
            json!({
                "base_bdev_name": base_bdev_name,
                "avg_read_latency": latencies.avg_read_us,
                "p99_read_latency": latencies.p99_read_us,
                "avg_write_latency": latencies.avg_write_us,
                "p99_write_latency": latencies.p99_write_us,
            }),
        ),
        Spec::Replica { base_name, group, pair, .. } => {
            ("replica", json!({ "base_bdev": base_name, "group": group, "pair": pair }))
        }
        Spec::View { group, pair, .. } => ("view", json!({ "group": group, "pair": pair })),
    };
    let mut map = Map::new();
    map.insert(kind.to_owned(), value);
    map
}
