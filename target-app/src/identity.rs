//! This system's identity: an X25519 key pair. Its public half names the system to others; whoever has the private half
//! is the system. Key files and their form are [`crate::cli::keygen`]'s.

use crate::cli::keygen::{KeyFileError, KeyPair, KeySource, read_key_file, write_key_file};
use longrun_copy::link::{generate_keypair, public_of};
use longrun_rpc::types::PublicKey;
use std::io::Read;
use std::path::Path;

/// The name of the key file in a state directory.
pub const KEY_FILE: &str = "identity.key";

/// Keys as links use them.
pub const SOURCE: KeySource = KeySource { generate: key_pair, public_of };

/// 32 bytes that nobody can guess, from the kernel.
pub fn random_seed() -> std::io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}

fn key_pair() -> std::io::Result<KeyPair> {
    let (private, public) = generate_keypair(random_seed()?);
    Ok(KeyPair { private, public })
}

/// Makes a new key and writes it to `path`, never over an existing file. Returns the public half.
pub fn generate(path: &Path) -> Result<PublicKey, KeyFileError> {
    let KeyPair { private, public } = key_pair().map_err(|source| KeyFileError::Random { source })?;
    write_key_file(path, &private)?;
    Ok(PublicKey::from(public))
}

/// The private key in a state directory; made at the first start.
pub fn of_directory(directory: &Path) -> Result<[u8; 32], KeyFileError> {
    let path = directory.join(KEY_FILE);
    if !path.exists() {
        generate(&path)?;
    }
    read_key_file(&path)
}

/// The public half of a private key.
pub fn public_key(private_key: &[u8; 32]) -> PublicKey {
    PublicKey::from(public_of(private_key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_key_and_another_gets_another() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = of_directory(a.path()).unwrap();
        assert_eq!(of_directory(a.path()).unwrap(), key);
        assert_ne!(of_directory(b.path()).unwrap(), key);
    }
}
