//! Moments on a group's timeline as people read and type them: UTC, to the nanosecond. The timeline starts at the wall
//! clock, in nanoseconds since 1970.

const NS: u64 = 1_000_000_000;

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn months_of(year: u64) -> [u64; 12] {
    [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

/// `2026-11-22 02:42:04.000000001 UTC`.
pub fn to_text(ns: u64) -> String {
    let (seconds, fraction) = (ns / NS, ns % NS);
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    while days >= days_of(year) {
        days -= days_of(year);
        year += 1;
    }
    let mut month = 1;
    for length in months_of(year) {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02}.{fraction:09} UTC", days + 1)
}

/// The other way round. `T` may stand between day and hour, `Z` or nothing for UTC; seconds and their fraction may be left
/// out. `None` for anything else, and for what lies before 1970 or after the end of the timeline (2554).
pub fn from_text(text: &str) -> Option<u64> {
    let text = text.trim();
    let text = text.strip_suffix("UTC").or_else(|| text.strip_suffix('Z')).unwrap_or(text).trim_end();
    let (date, time) = text.split_once([' ', 'T'])?;
    let number = |text: &str, digits: usize| {
        let fits = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        if fits { text.parse::<u64>().ok() } else { None }
    };
    let mut date = date.split('-');
    let year = number(date.next()?, 4).filter(|year| (1970..=2554).contains(year))?;
    let month = number(date.next()?, 2).filter(|month| (1..=12).contains(month))?;
    let lengths = months_of(year);
    let length = *lengths.get(month as usize - 1)?;
    let day = number(date.next()?, 2).filter(|day| (1..=length).contains(day))?;
    let mut time = time.split(':');
    let hour = number(time.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = number(time.next()?, 2).filter(|minute| *minute < 60)?;
    let (second, fraction) = match time.next() {
        None => (0, 0),
        Some(seconds) => {
            let (whole, fraction) = seconds.split_once('.').map_or((seconds, None), |(s, f)| (s, Some(f)));
            let fraction = match fraction {
                None => 0,
                Some(digits) if digits.len() <= 9 => {
                    number(digits, digits.len())? * 10_u64.pow(9 - digits.len() as u32)
                }
                Some(_) => return None,
            };
            (number(whole, 2).filter(|second| *second < 60)?, fraction)
        }
    };
    if date.next().is_some() || time.next().is_some() {
        return None;
    }
    let days = (1970..year).map(days_of).sum::<u64>() + lengths.iter().take(month as usize - 1).sum::<u64>() + day - 1;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    seconds.checked_mul(NS)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn moments_are_right_on_leap_days_and_at_both_ends() {
        for (ns, text) in [
            (0, "1970-01-01 00:00:00.000000000 UTC"),
            (68_169_599_999_999_999, "1972-02-28 23:59:59.999999999 UTC"),
            (68_169_600_000_000_000, "1972-02-29 00:00:00.000000000 UTC"),
            (951_868_800_000_000_000, "2000-03-01 00:00:00.000000000 UTC"),
            (4_107_542_400_000_000_000, "2100-03-01 00:00:00.000000000 UTC"),
            (u64::MAX, "2554-07-21 23:34:33.709551615 UTC"),
        ] {
            assert_eq!(to_text(ns), text);
            assert_eq!(from_text(text), Some(ns));
        }
    }

    #[test]
    fn what_people_type_is_read_and_what_is_no_moment_is_not() {
        let expected = Some(951_868_800_000_000_000);
        for text in ["2000-03-01 00:00", "2000-03-01T00:00:00Z", " 2000-03-01 00:00:00.0 ", "2000-03-01 00:00 UTC"] {
            assert_eq!(from_text(text), expected, "{text}");
        }
        assert_eq!(from_text("2000-03-01 00:00:00.5"), expected.map(|ns| ns + NS / 2));
        for text in [
            "",
            "now",
            "2000-03-01",
            "00:00",
            "2000-02-30 00:00",
            "1900-01-01 00:00",
            "2000-13-01 00:00",
            "2000-03-01 24:00",
            "2000-03-01 00:60",
            "2000-03-01 00:00:60",
            "2000-03-01 00:00:00.",
            "2000-03-01 00:00:00.1234567890",
            "2000-3-1 00:00",
            "+200-03-01 00:00",
            "2000-03-01 00:00:00+01:00",
            "2000-03-01-01 00:00",
            "9999-01-01 00:00",
            "2554-12-31 00:00",
            "2000-03-01 00:00:00:00",
            "2000-03-01 0\u{661}:00",
        ] {
            assert_eq!(from_text(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_moment_reads_back_as_itself(ns: u64) {
            prop_assert_eq!(from_text(&to_text(ns)), Some(ns));
        }

        #[test]
        fn no_text_at_all_is_a_panic(text in "\\PC{0,40}") {
            let _ = from_text(&text);
        }
    }
}
