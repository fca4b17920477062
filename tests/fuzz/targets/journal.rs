//! What a journal device and a metadata value may hold: as it is, and with its checksums made right, so that what lies
//! behind them is reached.
#![no_main]

use longrun_copy::journal::fuzz_journal;
use longrun_fuzz::journal;

libfuzzer_sys::fuzz_target!(init: longrun_fuzz::write_seeds(&journal::seeds()), |bytes: &[u8]| {
    fuzz_journal(bytes);
    for repair in [journal::repair_block, journal::repair_super, journal::repair_value] {
        let mut repaired = bytes.to_vec();
        repair(&mut repaired);
        fuzz_journal(&repaired);
    }
});
