//! What a takeover kept and what it could not.

use super::{facts, generation, lines, moment, number, text};
use longrun_rpc::methods::group::{LossCertificate, SeqRange};

/// `longrun group takeover`: what was kept, and what was not.
pub fn certificate(certificate: &LossCertificate) -> String {
    let head = facts(&[
        ("group", format!("{}, taken over; its volumes are writable", certificate.group)),
        ("recovery point", moment(certificate.recovery_point_ns)),
        ("clock error", format!("up to {} ns", certificate.clock_error_ns)),
        ("generation", generation(&certificate.generation)),
    ]);
    let stream_columns = [
        number("STREAM"),
        number("EPOCH"),
        number("LAST APPLIED"),
        number("HIGHEST ANNOUNCED"),
        text("SEEN, NOT APPLIED"),
    ];
    let streams = certificate.streams.iter().map(|stream| {
        vec![
            stream.stream.to_string(),
            stream.epoch.to_string(),
            stream.last_applied.to_string(),
            stream.highest_announced.to_string(),
            ranges(&stream.seen_not_applied),
        ]
    });
    let volume_columns = [text("VOLUME"), text("NEW UUID"), text("NEW NGUID")];
    let volumes = certificate
        .volumes
        .iter()
        .map(|volume| vec![volume.name.clone(), volume.uuid.to_string(), volume.nguid.to_string()]);
    let left_out = if certificate.never_consistent.is_empty() {
        String::new()
    } else {
        let names = certificate.never_consistent.join(", ");
        format!("\nLeft out, because their first copy was not complete: {names}. They serve no hosts.\n")
    };
    let split = if certificate.split_accepted {
        "\nThe old primary was not fenced: hosts may still write there, and one of the two histories must be given up.\n"
    } else {
        ""
    };
    format!(
        "{head}\n{}\nWhat the old primary stamped beyond the highest announced number is unknown, and lost.\n\n{}{left_out}{split}",
        lines(&stream_columns, streams.collect(), "no streams: nothing was ever received"),
        lines(&volume_columns, volumes.collect(), "no volumes"),
    )
}

fn ranges(ranges: &[SeqRange]) -> String {
    const SHOWN_MAX: usize = 8;
    let mut shown: Vec<String> = ranges
        .iter()
        .take(SHOWN_MAX)
        .map(|range| match range.first == range.last {
            true => range.first.to_string(),
            false => format!("{}-{}", range.first, range.last),
        })
        .collect();
    if ranges.len() > SHOWN_MAX {
        shown.push(format!("and {} more ranges (--json shows all)", ranges.len() - SHOWN_MAX));
    }
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}
