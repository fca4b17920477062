//! Datagrams of a link: frames, acknowledgements, control messages and handshakes, in a session and outside.
#![no_main]

libfuzzer_sys::fuzz_target!(init: longrun_fuzz::write_seeds(&longrun_fuzz::datagram::seeds()), |bytes: &[u8]| {
    longrun_copy::link::fuzz_datagram(bytes);
});
