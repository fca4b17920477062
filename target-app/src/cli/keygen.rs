//! `longrun keygen`: keys are made and kept by [`crate::identity`].

use super::args::KeygenArgs;
use crate::identity::{self, IdentityError};
use std::process::ExitCode;

/// `longrun keygen`. Prints the public key, which the other system's operator needs; the private one stays in its file.
pub fn run(args: &KeygenArgs) -> ExitCode {
    super::finish(make(args).map_err(|error| error.to_string()))
}

fn make(args: &KeygenArgs) -> Result<String, IdentityError> {
    let public = match (&args.out, &args.public_of) {
        (_, Some(path)) => identity::public_key(&identity::read_private_key(path)?),
        (Some(path), None) => identity::generate(path)?,
        (None, None) => identity::generate(std::path::Path::new(identity::KEY_FILE))?,
    };
    Ok(if args.json { super::pretty(&serde_json::json!({"public_key": public})) } else { format!("{public}\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_the_public_half_of_what_was_written_and_can_be_printed_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let made = make(&KeygenArgs { out: Some(path.clone()), public_of: None, json: false }).unwrap();
        let again = make(&KeygenArgs { out: None, public_of: Some(path.clone()), json: false }).unwrap();
        assert_eq!(made, again);
        let private = identity::read_private_key(&path).unwrap();
        assert_eq!(made.trim(), identity::public_key(&private).to_string());
    }
}
