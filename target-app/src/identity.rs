//! This system's identity: an X25519 key pair. Its public half names the system to others; whoever has the private half
//! is the system.
//!
//! A key file is one line of text, 32 bytes as base64. It is read only if nobody but its owner can read it: a key that
//! others may have read authenticates nobody.

use longrun_copy::link::{generate_keypair, public_of};
use longrun_rpc::types::PublicKey;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The name of the key file in a state directory.
pub const KEY_FILE: &str = "identity.key";
/// A key file is no longer than this.
const KEY_FILE_BYTES_MAX: u64 = 256;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Reading or writing failed.
    #[error("cannot {doing} key file {path}: {source}; {advice}")]
    Io {
        /// "read" or "write".
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// Others can read it.
    #[error("key file {path} has mode {mode:03o}, so others can read it; chmod 600 it, or better make a new key")]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The directory has another identity.
    #[error(
        "key file {path} {what}: other systems know this one as {known}; put back the key file that belongs to \
         this state directory, or begin with an empty state directory as a new system"
    )]
    Changed {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// The public key that the directory was used with.
        known: PublicKey,
    },
    /// Not a key.
    #[error(
        "key file {path} holds no key; expected one line of 44 characters of base64, as `longrun keygen --out` writes it"
    )]
    NotAKey {
        /// Which.
        path: PathBuf,
    },
}

/// 32 bytes that nobody can guess, from the kernel.
pub fn random_seed() -> std::io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}

/// Makes a new key and writes it to `path`, readable by its owner only; never over an existing file. Returns the public
/// half.
pub fn generate(path: &Path) -> Result<PublicKey, IdentityError> {
    let error = |source: std::io::Error| {
        let advice = if source.kind() == ErrorKind::AlreadyExists {
            "a key is never overwritten: move it away first, or choose another file"
        } else {
            "choose a file in a directory that this user may write"
        };
        IdentityError::Io { doing: "write", path: path.to_owned(), source, advice }
    };
    let (private_key, public_key) = generate_keypair(random_seed().map_err(error)?);
    // Whole and durable before it has its name: a crash in midway must not leave a key file without a key.
    let half_written = path.with_extension("new");
    // One that a crash left; it never was a key.
    let _ = std::fs::remove_file(&half_written);
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half_written)?;
        // A private key has the same form as a public one.
        writeln!(file, "{}", PublicKey::from(private_key))?;
        file.sync_all()?;
        // Fails where there is a file of that name; a rename would replace it.
        std::fs::hard_link(&half_written, path)
    };
    let written = write();
    let _ = std::fs::remove_file(&half_written);
    written.map_err(error)?;
    Ok(PublicKey::from(public_key))
}

/// Reads a key that [`generate`] wrote.
pub fn read_private_key(path: &Path) -> Result<[u8; 32], IdentityError> {
    let error = |source| IdentityError::Io {
        doing: "read",
        path: path.to_owned(),
        source,
        advice: "give the file that `longrun keygen --out FILE` wrote",
    };
    let not_a_key = || IdentityError::NotAKey { path: path.to_owned() };
    let file = std::fs::File::open(path).map_err(error)?;
    let mode = file.metadata().map_err(error)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(error)?;
    let text = String::from_utf8(bytes).map_err(|_| not_a_key())?;
    let key: PublicKey = text.trim().parse().map_err(|_| not_a_key())?;
    Ok(*key.as_bytes())
}

/// The private key in a state directory; made at the first start. `known` is the public half of the key that the directory
/// was used with, if it was: a new key in its place, or one with a flipped bit, would be another system, which has none of
/// this one's pairs.
pub fn of_directory(directory: &Path, known: Option<PublicKey>) -> Result<[u8; 32], IdentityError> {
    let path = directory.join(KEY_FILE);
    match (path.try_exists(), known) {
        (Ok(false), None) => drop(generate(&path)?),
        (Ok(false), Some(known)) => return Err(IdentityError::Changed { path, what: "is gone".to_owned(), known }),
        // A file that cannot even be looked up says why when it is read.
        _ => {}
    }
    let private_key = read_private_key(&path)?;
    let found = public_key(&private_key);
    match known.filter(|known| *known != found) {
        Some(known) => {
            Err(IdentityError::Changed { path, what: format!("holds the key of another system, {found}"), known })
        }
        None => Ok(private_key),
    }
}

/// The public half of a private key.
pub fn public_key(private_key: &[u8; 32]) -> PublicKey {
    PublicKey::from(public_of(private_key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_key_reads_back_is_private_and_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let public = generate(&path).unwrap();
        let private = read_private_key(&path).unwrap();
        assert_eq!(public_key(&private), public);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = generate(&path).unwrap_err().to_string();
        assert!(error.contains("never overwritten"), "{error}");
        assert_eq!(read_private_key(&path).unwrap(), private);
    }

    #[test]
    fn a_directory_keeps_its_key_and_another_gets_another() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = of_directory(a.path(), None).unwrap();
        assert_eq!(of_directory(a.path(), None).unwrap(), key);
        assert_eq!(of_directory(a.path(), Some(public_key(&key))).unwrap(), key);
        assert_ne!(of_directory(b.path(), None).unwrap(), key);
    }

    #[test]
    fn a_key_file_that_is_gone_from_a_directory_in_use_is_not_replaced_by_a_new_identity() {
        let directory = tempfile::tempdir().unwrap();
        let known = public_key(&of_directory(directory.path(), None).unwrap());
        std::fs::remove_file(directory.path().join(KEY_FILE)).unwrap();
        let error = of_directory(directory.path(), Some(known)).unwrap_err().to_string();
        assert!(error.contains("is gone") && error.contains("put back the key file"), "{error}");
        assert!(!directory.path().join(KEY_FILE).exists());
    }

    #[test]
    fn a_key_file_with_any_flipped_bit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(KEY_FILE);
        let known = public_key(&of_directory(directory.path(), None).unwrap());
        let whole = std::fs::read(&path).unwrap();
        let mut others = 0;
        for bit in 0..44 * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            match of_directory(directory.path(), Some(known)) {
                Err(IdentityError::Changed { .. }) => others += 1,
                Err(_) => {}
                // X25519 ignores some bits of a private key: it is the same key still.
                Ok(key) => assert_eq!(public_key(&key), known),
            }
        }
        assert!(others > 100, "only {others} were keys of another system");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let text = PublicKey::from([7; 32]).to_string();
        for mode in [0o640, 0o604, 0o666] {
            let (_directory, path) = written(text.as_bytes(), mode);
            let error = read_private_key(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn a_file_that_holds_no_key_is_refused_with_the_form_of_one() {
        for content in [b"".as_slice(), b"short", &[0xff; 100], &[b'A'; 100_000]] {
            let (_directory, path) = written(content, 0o600);
            let error = read_private_key(&path).unwrap_err().to_string();
            assert!(error.contains("longrun keygen"), "{error}");
        }
    }
}
