//! How much of a core's memory the send buffers of its groups may take.
//!
//! A core's memory is shared out: a third for what its secondaries receive, half for the send buffers, the rest for hosts'
//! payloads. *Without the sum, a buffer larger than the memory kept hosts from theirs while the link was behind, and their
//! commands failed instead of being slowed.*

use super::Caller;
use longrun_rpc::RpcError;
use longrun_rpc::methods::group::GroupCreate;

/// The send buffers' share of a core's memory, as a divisor.
const SHARE: u64 = 2;
const MIB: u64 = 1 << 20;

/// The send buffer of a new group on a core of so much memory, whose other groups have `taken` bytes: what was asked for,
/// or as much of the default as is left. From the configuration at a start it is made to fit, because a start that is
/// refused serves nothing.
pub(super) fn send_buffer(call: &GroupCreate, memory: u64, taken: u64, caller: Caller) -> Result<u64, RpcError> {
    let left = (memory / SHARE).saturating_sub(taken);
    let fits = left >= GroupCreate::BUFFER_BYTES_MIN;
    match (call.buffer_bytes, caller) {
        (None, _) if fits => Ok(GroupCreate::BUFFER_BYTES_DEFAULT.min(left)),
        (Some(given), _) if given <= left => Ok(given),
        (given, Caller::Configuration) => {
            let made = left.max(GroupCreate::BUFFER_BYTES_MIN);
            tracing::warn!(
                "group {} has a send buffer of {} MiB instead of {}: this core's memory of {} MiB has no more left; raise \
                 --memory-mib",
                call.name,
                made / MIB,
                given.unwrap_or(GroupCreate::BUFFER_BYTES_DEFAULT) / MIB,
                memory / MIB
            );
            Ok(made)
        }
        (given, Caller::Operator) => Err(RpcError::invalid_params(format!(
            "buffer_bytes of {} MiB do not fit: the groups of a core may have half of its memory of {} MiB, {} MiB of that \
             are left; give fewer, or serve with a larger --memory-mib",
            given.unwrap_or(GroupCreate::BUFFER_BYTES_MIN) / MIB,
            memory / MIB,
            left / MIB
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call(buffer_bytes: Option<u64>) -> GroupCreate {
        let mut call = json!({"name": "g", "role": "primary", "link": "l"});
        if let Some(bytes) = buffer_bytes {
            call["buffer_bytes"] = bytes.into();
        }
        serde_json::from_value(call).unwrap()
    }

    fn of(given: Option<u64>, taken_mib: u64, caller: Caller) -> Result<u64, String> {
        let answer = send_buffer(&call(given.map(|mib| mib * MIB)), 256 * MIB, taken_mib * MIB, caller);
        answer.map(|bytes| bytes / MIB).map_err(|error| error.message)
    }

    #[test]
    fn send_buffers_take_half_of_the_memory_at_most() {
        assert_eq!(of(Some(128), 0, Caller::Operator), Ok(128));
        let refused = of(Some(129), 0, Caller::Operator).unwrap_err();
        assert!(refused.contains("129 MiB") && refused.contains("--memory-mib"), "{refused}");
        assert!(of(Some(65), 64, Caller::Operator).is_err());
        assert!(of(None, 125, Caller::Operator).is_err());
    }

    #[test]
    fn without_a_wish_it_is_the_default_or_what_is_left() {
        assert_eq!(of(None, 0, Caller::Operator), Ok(64));
        assert_eq!(of(None, 100, Caller::Operator), Ok(28));
    }

    #[test]
    fn a_start_makes_the_buffers_of_its_configuration_fit() {
        assert_eq!(of(Some(512), 64, Caller::Configuration), Ok(64));
        assert_eq!(of(Some(512), 200, Caller::Configuration), Ok(4));
        assert_eq!(of(None, 0, Caller::Configuration), Ok(64));
    }
}
