//! Values that are typed at the command line: sizes, core lists, time limits. Each is checked once, when it is read.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use longrun_rpc::types::{BlockSize, TakeoverPoint};

/// Why a typed value was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// A size that cannot be read.
    #[error(
        "{given:?} is not a size; expected a whole number with KiB, MiB, GiB or TiB behind it, or bytes (1GiB, 512MiB, 4096)"
    )]
    Bytes {
        /// What was given.
        given: String,
    },
    /// A list of cores that cannot be read.
    #[error(
        "{given:?} is not a list of cores; expected numbers such as 0,1 or 2-5, none twice, below {}",
        Cores::LIMIT
    )]
    Cores {
        /// What was given.
        given: String,
    },
    /// A time that cannot be read.
    #[error("{given:?} is not a time limit; expected seconds from 0.001 to 86400")]
    Seconds {
        /// What was given.
        given: String,
    },
    /// A block size that no volume has.
    #[error("{given:?} is not a block size; expected 512 or 4096")]
    BlockSize {
        /// What was given.
        given: String,
    },
}

/// A size in bytes, read with binary units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || ValueError::Bytes { given: text.to_owned() };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).ok_or_else(error)?;
        // Decimal units (GB) are not read at all: whichever way they were taken, somebody would mean the other.
        let shift = match unit.trim_start() {
            "" | "B" => 0,
            "K" | "KiB" => 10,
            "M" | "MiB" => 20,
            "G" | "GiB" => 30,
            "T" | "TiB" => 40,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Bytes {
    /// In the greatest unit of which there is at least one, with one decimal where it is not whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let text = match units.into_iter().find(|(size, _)| self.0 >= *size) {
            None => format!("{} B", self.0),
            Some((size, unit)) if self.0.is_multiple_of(size) => format!("{} {unit}", self.0 / size),
            Some((size, unit)) => format!("{:.1} {unit}", self.0 as f64 / size as f64),
        };
        f.pad(&text)
    }
}

/// Processor numbers, at least one, none twice, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

impl Cores {
    /// Processor numbers are below this, the kernel's own limit.
    pub const LIMIT: usize = 8192;

    /// The processors.
    pub fn list(&self) -> &[usize] {
        &self.0
    }
}

impl FromStr for Cores {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || ValueError::Cores { given: text.to_owned() };
        let number = |text: &str| match text.trim().parse::<usize>() {
            Ok(core) if core < Self::LIMIT => Ok(core),
            _ => Err(error()),
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(error());
            }
            for core in first..=last {
                if cores.contains(&core) {
                    return Err(error());
                }
                cores.push(core);
            }
        }
        Ok(Self(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.pad(&numbers.join(","))
    }
}

/// A time limit, read in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.parse::<f64>() {
            Ok(seconds) if (0.001..=86_400.0).contains(&seconds) => Ok(Self(Duration::from_secs_f64(seconds))),
            _ => Err(ValueError::Seconds { given: text.to_owned() }),
        }
    }
}

/// Reads a block size.
pub(super) fn block_size(text: &str) -> Result<BlockSize, ValueError> {
    text.parse::<u32>()
        .ok()
        .and_then(|bytes| BlockSize::try_from(bytes).ok())
        .ok_or_else(|| ValueError::BlockSize { given: text.to_owned() })
}

/// Reads where a takeover goes to. What consists of digits alone is nanoseconds on the group's timeline, as `group get
/// --json` shows them.
pub(super) fn takeover_point(text: &str) -> Result<TakeoverPoint, longrun_rpc::types::ValueError> {
    match text.parse() {
        Ok(ns) => Ok(TakeoverPoint::Time(ns)),
        Err(_) => text.parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_units_and_decimal_ones_are_refused() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("1K", 1024), ("1KiB", 1024), ("3 MiB", 3 << 20), ("2T", 2 << 40)]
        {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
        for text in ["", "GiB", "1GB", "1.5GiB", "-1", "1 gib", "99999999999T", "\u{e9}", "1\u{e9}"] {
            let error = text.parse::<Bytes>().unwrap_err().to_string();
            assert!(error.contains("1GiB"), "{error}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_greatest_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1 << 30, "1 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn core_lists_have_ranges_and_no_core_twice() {
        assert_eq!("0".parse::<Cores>().unwrap().list(), [0]);
        assert_eq!("3,0-1".parse::<Cores>().unwrap().list(), [3, 0, 1]);
        assert_eq!("2-4".parse::<Cores>().unwrap().to_string(), "2,3,4");
        for text in ["", ",", "a", "1,1", "0-2,1", "3-1", "-1", "8192", "0-99999999999"] {
            let error = text.parse::<Cores>().unwrap_err().to_string();
            assert!(error.contains("such as 0,1 or 2-5"), "{error}");
        }
    }

    #[test]
    fn a_takeover_goes_to_digits_to_a_moment_or_to_a_bookmark() {
        let name = |text: &str| TakeoverPoint::Bookmark(text.parse().unwrap());
        for (text, point) in [
            ("951868800000000001", TakeoverPoint::Time(951_868_800_000_000_001)),
            ("2000-03-01 00:00:00.000000001 UTC", TakeoverPoint::Time(951_868_800_000_000_001)),
            ("nightly", name("nightly")),
            ("99999999999999999999999", name("99999999999999999999999")),
        ] {
            assert_eq!(takeover_point(text).unwrap(), point, "{text}");
        }
        assert!(takeover_point("yesterday evening").unwrap_err().to_string().contains("neither a time nor"));
    }

    #[test]
    fn a_time_limit_is_more_than_nothing_and_not_for_ever() {
        assert_eq!("0.5".parse::<Seconds>().unwrap().0, Duration::from_millis(500));
        for text in ["0", "-1", "NaN", "inf", "1e9", "x"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }
}
