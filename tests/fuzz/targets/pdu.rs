//! NVMe/TCP PDUs: any bytes to a target from a host, and to a host from a target.
#![no_main]

libfuzzer_sys::fuzz_target!(init: longrun_fuzz::write_seeds(&longrun_fuzz::pdu::seeds()), |bytes: &[u8]| {
    longrun_nvmf::fuzz::fuzz_connection(bytes);
    longrun_nvmf::fuzz::fuzz_host(bytes);
});
