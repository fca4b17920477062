//! The values parameters are made of. Each is checked once, when it is read; afterwards it cannot be wrong.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// Why a value was refused. The sentence reaches the operator behind the parameter's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// A block size no medium here has.
    #[error("block size {given} bytes, expected 512 or 4096")]
    BlockSize {
        /// What was given, bytes.
        given: u32,
    },
    /// A share outside 0..1.
    #[error("{given} is not a fraction: expected a number from 0 to 1 (2 % is 0.02)")]
    Fraction {
        /// What was given, as text.
        given: String,
    },
    /// A name that cannot be shown or typed safely.
    #[error(
        "{given:?} cannot be a name: expected 1 to {max} bytes without spaces, slashes or control characters",
        max = Name::BYTES_MAX
    )]
    Name {
        /// What was given, shortened.
        given: String,
    },
    /// Neither a moment nor a name.
    #[error(
        "{given:?} is neither a time nor a bookmark: expected nanoseconds on the group's timeline, a moment such as \
         2026-11-22 02:42:04.5 UTC, or a bookmark's name"
    )]
    TakeoverPoint {
        /// What was given, shortened.
        given: String,
    },
    /// Text that is no public key.
    #[error(
        "{given:?} is not a public key: expected 32 bytes as 44 characters of base64 or 64 of hex, \
         as `longrun keygen` prints it"
    )]
    PublicKey {
        /// What was given, shortened.
        given: String,
    },
    /// An NQN against NVMe Base 2.0, section 4.5.
    #[error("{given:?} is not an NQN: expected `nqn.` and at most 223 bytes, such as nqn.2026-11.io.longrun:vol0")]
    Nqn {
        /// What was given, shortened.
        given: String,
    },
    /// An identifier of the wrong length or alphabet.
    #[error("{given:?} is not {what}: expected {digits} hexadecimal digits")]
    Hex {
        /// What was given, shortened.
        given: String,
        /// What it should have been.
        what: &'static str,
        /// How many digits it needs.
        digits: usize,
    },
}

/// A logical block's size: 512 or 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct BlockSize(u32);

impl BlockSize {
    /// 512 bytes.
    pub const B512: Self = Self(512);
    /// 4096 bytes.
    pub const B4096: Self = Self(4096);

    /// The size in bytes.
    pub fn bytes(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for BlockSize {
    type Error = ValueError;

    fn try_from(given: u32) -> Result<Self, ValueError> {
        match given {
            512 | 4096 => Ok(Self(given)),
            _ => Err(ValueError::BlockSize { given }),
        }
    }
}

impl From<BlockSize> for u32 {
    fn from(size: BlockSize) -> u32 {
        size.0
    }
}

/// A share from 0 to 1, both included; never NaN.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Fraction(f64);

impl Fraction {
    /// Nothing.
    pub const ZERO: Self = Self(0.0);

    /// The share as a number from 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Fraction {
    type Error = ValueError;

    fn try_from(given: f64) -> Result<Self, ValueError> {
        if (0.0..=1.0).contains(&given) {
            Ok(Self(given))
        } else {
            Err(ValueError::Fraction { given: given.to_string() })
        }
    }
}

impl From<Fraction> for f64 {
    fn from(fraction: Fraction) -> f64 {
        fraction.0
    }
}

impl std::str::FromStr for Fraction {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let number: f64 =
            text.trim().parse().map_err(|_| ValueError::Fraction { given: crate::error::shorten(text) })?;
        Self::try_from(number)
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a takeover goes to: a number is a time, nanoseconds on the group's timeline; a text is a moment
/// ([`crate::moment`]) or a bookmark's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub enum TakeoverPoint {
    /// A time.
    Time(u64),
    /// A bookmark.
    Bookmark(Name),
}

impl std::str::FromStr for TakeoverPoint {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match crate::moment::from_text(text) {
            Some(ns) => Ok(Self::Time(ns)),
            None => text
                .parse()
                .map(Self::Bookmark)
                .map_err(|_| ValueError::TakeoverPoint { given: crate::error::shorten(text) }),
        }
    }
}

impl TryFrom<serde_json::Value> for TakeoverPoint {
    type Error = ValueError;

    fn try_from(given: serde_json::Value) -> Result<Self, ValueError> {
        match (given.as_u64(), given.as_str()) {
            (Some(ns), _) => Ok(Self::Time(ns)),
            (None, Some(text)) => text.parse(),
            (None, None) => Err(ValueError::TakeoverPoint { given: crate::error::shorten(&given.to_string()) }),
        }
    }
}

impl From<TakeoverPoint> for serde_json::Value {
    fn from(point: TakeoverPoint) -> Self {
        match point {
            TakeoverPoint::Time(ns) => ns.into(),
            TakeoverPoint::Bookmark(name) => String::from(name).into(),
        }
    }
}

/// The name of a new object: 1 to 128 bytes that can be typed in a shell and shown in a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl TryFrom<String> for Name {
    type Error = ValueError;

    fn try_from(given: String) -> Result<Self, ValueError> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/';
        if given.is_empty() || given.len() > Self::BYTES_MAX || given.contains(bad) {
            return Err(ValueError::Name { given: crate::error::shorten(&given) });
        }
        Ok(Self(given))
    }
}

impl std::str::FromStr for Name {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::try_from(text.to_owned())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An NVMe qualified name (NVMe Base 2.0, section 4.5): `nqn.`, at most 223 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nqn(String);

impl Nqn {
    /// The longest NQN, in bytes.
    pub const BYTES_MAX: usize = 223;

    /// The NQN as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Nqn {
    type Error = ValueError;

    fn try_from(given: String) -> Result<Self, ValueError> {
        let bad = |c: char| c.is_whitespace() || c.is_control();
        if !given.starts_with("nqn.") || given.len() <= 4 || given.len() > Self::BYTES_MAX || given.contains(bad) {
            return Err(ValueError::Nqn { given: crate::error::shorten(&given) });
        }
        Ok(Self(given))
    }
}

impl std::str::FromStr for Nqn {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::try_from(text.to_owned())
    }
}

impl From<Nqn> for String {
    fn from(nqn: Nqn) -> String {
        nqn.0
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A system's static public key (Curve25519): read as base64 or hex, written as base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for PublicKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = ValueError;

    fn try_from(given: String) -> Result<Self, ValueError> {
        let text = given.trim();
        // 64 characters are hex and 44 are base64: the lengths cannot be mistaken for each other.
        let bytes = if text.len() == 64 { hex_bytes(text) } else { BASE64.decode(text).ok() };
        bytes
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| ValueError::PublicKey { given: crate::error::shorten(text) })
    }
}

impl std::str::FromStr for PublicKey {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::try_from(text.to_owned())
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A namespace globally unique identifier: 16 bytes, read as 32 hex digits (hyphens allowed), written as SPDK writes
/// it, in capitals without hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nguid([u8; 16]);

impl Nguid {
    /// The identifier's bytes, most significant first.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for Nguid {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<String> for Nguid {
    type Error = ValueError;

    fn try_from(given: String) -> Result<Self, ValueError> {
        hex_bytes(&given.replace('-', ""))
            .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| ValueError::Hex { given: crate::error::shorten(&given), what: "an NGUID", digits: 32 })
    }
}

impl From<Nguid> for String {
    fn from(nguid: Nguid) -> String {
        nguid.to_string()
    }
}

impl fmt::Display for Nguid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// An IEEE extended unique identifier: 8 bytes, read as 16 hex digits, written in capitals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Eui64([u8; 8]);

impl Eui64 {
    /// The identifier's bytes, most significant first.
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl From<[u8; 8]> for Eui64 {
    fn from(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<String> for Eui64 {
    type Error = ValueError;

    fn try_from(given: String) -> Result<Self, ValueError> {
        hex_bytes(&given).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()).map(Self).ok_or_else(|| ValueError::Hex {
            given: crate::error::shorten(&given),
            what: "an EUI-64",
            digits: 16,
        })
    }
}

impl From<Eui64> for String {
    fn from(eui64: Eui64) -> String {
        eui64.to_string()
    }
}

impl fmt::Display for Eui64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// Bytes from an even number of hex digits; `None` for anything else.
fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_reads_the_same_from_base64_and_hex_and_is_written_as_base64() {
        let bytes: [u8; 32] = std::array::from_fn(|i| (i * 7 + 1) as u8);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let key: PublicKey = hex.parse().unwrap();
        assert_eq!(key.as_bytes(), &bytes);
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        assert_eq!(key.to_string().len(), 44);
        for wrong in ["", "00", &hex[1..], "not a key", &"g".repeat(64)] {
            let error = wrong.parse::<PublicKey>().unwrap_err().to_string();
            assert!(error.contains("longrun keygen"), "{error}");
        }
    }

    #[test]
    fn a_fraction_is_from_nothing_to_all_and_never_nan() {
        assert_eq!("0.25".parse::<Fraction>().unwrap().get(), 0.25);
        assert_eq!("1".parse::<Fraction>().unwrap().get(), 1.0);
        for wrong in ["-0.1", "1.01", "2%", "NaN", "inf", ""] {
            let error = wrong.parse::<Fraction>().unwrap_err().to_string();
            assert!(error.contains("from 0 to 1"), "{error}");
        }
    }

    #[test]
    fn a_name_can_be_typed_and_shown() {
        assert!(Name::try_from("Nvme0n1:a.b-c".to_owned()).is_ok());
        for wrong in ["", "a b", "a/b", "a\n", "\u{7}", &"x".repeat(129)] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn identifiers_are_read_with_their_exact_length_only() {
        let nguid = Nguid::try_from("00112233-4455-6677-8899-aabbccddeeff".to_owned()).unwrap();
        assert_eq!(nguid.to_string(), "00112233445566778899AABBCCDDEEFF");
        assert!(Nguid::try_from("0011".to_owned()).is_err());
        assert!(Nguid::try_from("é".repeat(16)).is_err());
        assert_eq!(Eui64::try_from("0011223344556677".to_owned()).unwrap().to_string(), "0011223344556677");
        assert!(Eui64::try_from("001122334455667".to_owned()).is_err());
    }

    #[test]
    fn block_sizes_other_than_512_and_4096_are_refused() {
        assert_eq!(BlockSize::try_from(512).unwrap(), BlockSize::B512);
        assert_eq!(BlockSize::try_from(4096).unwrap().bytes(), 4096);
        for wrong in [0, 1, 520, 8192, u32::MAX] {
            assert!(BlockSize::try_from(wrong).is_err());
        }
    }

    #[test]
    fn an_nqn_starts_as_one_and_fits_its_field() {
        assert!("nqn.2026-11.io.longrun:vol0".parse::<Nqn>().is_ok());
        for wrong in ["", "nqn.", "iqn.2026-11.io", "nqn.a b", &format!("nqn.{}", "x".repeat(220))] {
            assert!(wrong.parse::<Nqn>().is_err(), "{wrong:?}");
        }
    }
}
