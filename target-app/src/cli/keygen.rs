//! `longrun keygen`: the key pair by which systems know each other.

use std::process::ExitCode;

use longrun_copy::link::generate_keypair;
use longrun_rpc::types::PublicKey;

use super::args::KeygenArgs;
use crate::identity::{self, IdentityError};

/// Runs `longrun keygen`, prints the keys asked for, and says how it ended.
pub fn run(args: &KeygenArgs) -> ExitCode {
    super::finish(make(args))
}

fn make(args: &KeygenArgs) -> Result<String, String> {
    let sentence = |error: IdentityError| error.to_string();
    let (private, public) = match (&args.out, &args.public_of) {
        (Some(path), _) => (None, identity::generate(path).map_err(sentence)?),
        (None, Some(path)) => (None, identity::public_key(&identity::read_private_key(path).map_err(sentence)?)),
        (None, None) => {
            let seed = identity::random_seed()
                .map_err(|error| format!("the system gave no randomness: {error}; no key was made"))?;
            let (private, public) = generate_keypair(seed);
            // A private key is written in the same way as a public one.
            (Some(PublicKey::from(private)), PublicKey::from(public))
        }
    };
    Ok(match (args.json, private) {
        (true, Some(private)) => super::pretty(&serde_json::json!({"private_key": private, "public_key": public})),
        (true, None) => super::pretty(&serde_json::json!({"public_key": public})),
        (false, Some(private)) => format!("private key  {private}\npublic key   {public}\n"),
        (false, None) => format!("{public}\n"),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn args(out: Option<PathBuf>, public_of: Option<PathBuf>, json: bool) -> KeygenArgs {
        KeygenArgs { out, public_of, json }
    }

    #[test]
    fn a_key_that_is_written_is_not_printed_and_its_public_half_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let printed = make(&args(Some(path.clone()), None, false)).unwrap();
        let private = PublicKey::from(identity::read_private_key(&path).unwrap());
        assert_eq!(printed.trim().parse::<PublicKey>().unwrap().to_string(), printed.trim());
        assert_ne!(printed.trim(), private.to_string());
        assert_eq!(make(&args(None, Some(path.clone()), false)).unwrap(), printed);
        let error = make(&args(Some(path), None, false)).unwrap_err();
        assert!(error.contains("never overwritten"), "{error}");
    }

    #[test]
    fn without_a_file_both_halves_of_one_pair_are_printed() {
        let text = make(&args(None, None, false)).unwrap();
        let key = |label: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_else(|| panic!("{text}"));
            line.trim().parse::<PublicKey>().unwrap()
        };
        assert_eq!(identity::public_key(key("private key").as_bytes()), key("public key"));
        let json: serde_json::Value = serde_json::from_str(&make(&args(None, None, true)).unwrap()).unwrap();
        assert!(json["private_key"].is_string() && json["public_key"].is_string(), "{json}");
    }
}
