//! How far copies and comparisons are, in a line with a bar.

use longrun_rpc::methods::progress::{CopyInfo, VerifyInfo};

use super::table::span_ms;
use super::values::Bytes;

/// How full a bar is drawn.
const BAR_CELLS: u64 = 20;

/// `[#########...........] 48 %`. Rounded down: it is full when all is done.
fn bar(done: u64, total: u64) -> String {
    let done = done.min(total);
    let of =
        |cells: u64| if total == 0 { cells } else { (u128::from(done) * u128::from(cells) / u128::from(total)) as u64 };
    let full = of(BAR_CELLS) as usize;
    format!("[{}{}] {} %", "#".repeat(full), ".".repeat(BAR_CELLS as usize - full), of(100))
}

/// `[#########...........] 48 % of 64 GiB, 120 MiB/s, 4 min left`.
pub(crate) fn copy(copy: &CopyInfo) -> String {
    let left = match copy.estimate_s {
        Some(seconds @ 0..600) => format!(", {seconds} s left"),
        Some(seconds) => format!(", {} left", span_ms(seconds.saturating_mul(1000))),
        None => String::new(),
    };
    let pace = if copy.bytes_per_s == 0 { "stands still".to_owned() } else { format!("{}/s", Bytes(copy.bytes_per_s)) };
    format!("{} of {}, {pace}{left}", bar(copy.bytes_done, copy.bytes_total), Bytes(copy.bytes_total))
}

/// What an online verify found so far, in a line.
pub(crate) fn verify(verify: &VerifyInfo) -> String {
    let progress = match (verify.over, &verify.reason) {
        (true, None) => format!("{} compared", Bytes(verify.bytes_done)),
        (true, Some(reason)) => {
            format!("given up after {} of {}: {reason}", Bytes(verify.bytes_done), Bytes(verify.bytes_total))
        }
        (false, _) => format!("{} of {}", bar(verify.bytes_done, verify.bytes_total), Bytes(verify.bytes_total)),
    };
    let mut found = match verify.bytes_differing {
        0 => "nothing differs".to_owned(),
        bytes => format!("{} DIFFER{}", Bytes(bytes), if verify.repair { ", copied again" } else { "" }),
    };
    if verify.bytes_unreadable > 0 {
        found.push_str(&format!(", {} could not be read", Bytes(verify.bytes_unreadable)));
    }
    format!("{progress}; {found}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_only_when_all_is_done() {
        assert_eq!(bar(0, 100), "[....................] 0 %");
        assert_eq!(bar(48, 100), "[#########...........] 48 %");
        assert_eq!(bar(999, 1000), "[###################.] 99 %");
        assert_eq!(bar(100, 100), "[####################] 100 %");
        assert_eq!(bar(u64::MAX, u64::MAX), "[####################] 100 %");
        assert_eq!(bar(0, 0), "[####################] 100 %", "nothing to do is done");
        assert_eq!(bar(7, 5), "[####################] 100 %");
    }

    #[test]
    fn a_copy_that_stands_still_says_so_and_promises_no_end() {
        let mut info = CopyInfo {
            bytes_total: 1 << 30,
            bytes_done: 1 << 29,
            bytes_per_s: 120 << 20,
            estimate_s: Some(5),
            reason: None,
        };
        assert_eq!(copy(&info), "[##########..........] 50 % of 1 GiB, 120 MiB/s, 5 s left");
        info.estimate_s = Some(7_201);
        assert!(copy(&info).ends_with("121 min left"), "{}", copy(&info));
        (info.bytes_per_s, info.estimate_s) = (0, None);
        assert_eq!(copy(&info), "[##########..........] 50 % of 1 GiB, stands still");
    }

    #[test]
    fn a_verify_says_what_differs_and_what_nobody_could_read() {
        let mut info = VerifyInfo { bytes_total: 4096, bytes_done: 1024, ..VerifyInfo::default() };
        assert_eq!(verify(&info), "[#####...............] 25 % of 4 KiB; nothing differs");
        info = VerifyInfo { bytes_done: 4096, over: true, bytes_differing: 512, repair: true, ..info };
        assert_eq!(verify(&info), "4 KiB compared; 512 B DIFFER, copied again");
        info = VerifyInfo {
            bytes_unreadable: 512,
            bytes_differing: 0,
            reason: Some("the group was suspended".into()),
            ..info
        };
        assert_eq!(
            verify(&info),
            "given up after 4 KiB of 4 KiB: the group was suspended; nothing differs, 512 B could not be read"
        );
    }
}
