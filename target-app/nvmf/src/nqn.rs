//! NVMe Qualified Names (NVM Express Base 2.0, section 4.5).

use std::{fmt, str::FromStr, sync::Arc};

/// Longest name in bytes, without the terminating zero (Base 2.0, 4.5).
pub const NQN_BYTES_MAX: usize = 223;

/// The well-known name of the discovery subsystem (Base 2.0, 3.1.2.3.1).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Before a UUID, in names that nobody's domain is needed for (Base 2.0, 4.5).
const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// A checked NVMe Qualified Name; cloning is a reference count, comparing is by bytes as the standard asks.
///
/// Gives up: the date and domain inside the name are not checked, since real hosts send names that break those rules and
/// are served by every other target.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nqn(Arc<str>);

/// Why some text is no NQN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NqnError {
    /// Empty or longer than [`NQN_BYTES_MAX`].
    #[error("an NQN has 1 to {NQN_BYTES_MAX} bytes, this one has {got}")]
    Length {
        /// Its length in bytes.
        got: usize,
    },
    /// Not UTF-8, or with control characters in it.
    #[error("an NQN is UTF-8 text without control characters")]
    NotText,
    /// Without the prefix.
    #[error("an NQN begins with \"nqn.\", as in nqn.2026-11.example:disk1; this one is {got:?}")]
    Prefix {
        /// The text given.
        got: String,
    },
    /// A 256-byte field of a Connect command without a terminating zero.
    #[error("the name is not ended by a zero byte")]
    Unterminated,
}

impl Nqn {
    /// The discovery subsystem's name.
    pub fn discovery() -> Self {
        Self(Arc::from(DISCOVERY_NQN))
    }

    /// Whether this names the discovery subsystem.
    pub fn is_discovery(&self) -> bool {
        &*self.0 == DISCOVERY_NQN
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a zero-terminated field, as the Connect data carries (Base 2.0, figure 381).
    pub fn from_field(field: &[u8]) -> Result<Self, NqnError> {
        let end = field.iter().position(|&b| b == 0).ok_or(NqnError::Unterminated)?;
        let text = field.get(..end).and_then(|b| std::str::from_utf8(b).ok()).ok_or(NqnError::NotText)?;
        text.parse()
    }

    /// The name that a host's identifier makes (Base 2.0, 4.5).
    pub fn from_uuid(id: [u8; 16]) -> Self {
        Self(Arc::from(format!("{UUID_PREFIX}{}", uuid::Uuid::from_bytes(id))))
    }

    /// Writes the name into a zero-filled field; a field shorter than the name takes what fits.
    pub(crate) fn write_field(&self, field: &mut [u8]) {
        field.fill(0);
        for (to, from) in field.iter_mut().zip(self.0.as_bytes()) {
            *to = *from;
        }
    }
}

impl FromStr for Nqn {
    type Err = NqnError;

    fn from_str(text: &str) -> Result<Self, NqnError> {
        if text.is_empty() || text.len() > NQN_BYTES_MAX {
            return Err(NqnError::Length { got: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(NqnError::NotText);
        }
        if !text.starts_with("nqn.") {
            return Err(NqnError::Prefix { got: text.to_owned() });
        }
        Ok(Self(Arc::from(text)))
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_its_prefix_or_too_long_is_refused() {
        assert!(matches!("disk1".parse::<Nqn>(), Err(NqnError::Prefix { .. })));
        assert_eq!("".parse::<Nqn>(), Err(NqnError::Length { got: 0 }));
        let longest = format!("nqn.{}", "a".repeat(219));
        assert!(longest.parse::<Nqn>().is_ok());
        assert_eq!(format!("{longest}a").parse::<Nqn>(), Err(NqnError::Length { got: 224 }));
    }

    #[test]
    fn a_field_round_trips_and_needs_its_zero() {
        let nqn: Nqn = "nqn.2026-11.example:disk1".parse().unwrap();
        let mut field = [0xffu8; 256];
        nqn.write_field(&mut field);
        assert_eq!(Nqn::from_field(&field).unwrap(), nqn);
        assert_eq!(Nqn::from_field(&[b'n'; 256]), Err(NqnError::Unterminated));
        assert_eq!(Nqn::from_field(&[0xff, 0xfe, 0]), Err(NqnError::NotText));
    }
}
