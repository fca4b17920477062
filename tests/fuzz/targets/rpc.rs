//! What arrives at the RPC socket: framing, JSON-RPC and every method's parameters.
#![no_main]

libfuzzer_sys::fuzz_target!(init: longrun_fuzz::write_seeds(&longrun_fuzz::rpc::seeds()), |bytes: &[u8]| {
    longrun_rpc::framing::exercise(bytes);
});
