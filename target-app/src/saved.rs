//! The configuration that comes back by itself: a file in the state directory, which is written after every call that
//! changed something, and carried out at a start without `--config`.
//!
//! It has the form that `save_config` writes. A file that is damaged, of another version or gone stops the start: a system
//! that came up without its volumes would look as if they had never been.

use longrun_rpc::config::Config;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Its name in a state directory.
pub const CONFIG_FILE: &str = "config.json";

/// Why the saved configuration cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// It cannot be read.
    #[error(
        "configuration {path} cannot be read ({source}); mend the disk, put back a copy, or start with --config FILE"
    )]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what was written.
    #[error("configuration {path}: {text}; put back a copy of it, or start with --config FILE, which replaces it")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// It was there before.
    #[error(
        "configuration {path} is gone, though this state directory was in use: put back a copy of it, or start with \
         --config FILE ({{\"subsystems\": []}} is one without any volume)"
    )]
    Gone {
        /// Which.
        path: PathBuf,
    },
    /// What belongs to it is not there.
    #[error(
        "{directory} has a configuration and no metadata, so this system does not know which writes the other sites have: \
         put back metadata.redb, or move {CONFIG_FILE} away and make the groups and pairs anew at both ends"
    )]
    NoMetadata {
        /// The state directory.
        directory: PathBuf,
    },
}

/// The file, and what was last written to it.
#[derive(Debug)]
pub struct Saved {
    path: PathBuf,
    text: Option<String>,
}

impl Saved {
    /// Of this state directory.
    pub fn of_directory(directory: &Path) -> Saved {
        Saved { path: directory.join(CONFIG_FILE), text: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// What it holds, of a form that can be carried out; `None` if there is none, which `was_written` makes an error.
    pub fn read(&self, was_written: bool) -> Result<Option<Vec<u8>>, SavedError> {
        let path = self.path.clone();
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return if was_written { Err(SavedError::Gone { path }) } else { Ok(None) };
            }
            Err(source) => return Err(SavedError::Unreadable { path, source }),
        };
        match Config::parse(&text) {
            Ok(_) => Ok(Some(text)),
            Err(error) => Err(SavedError::Unusable { path, text: error.to_string() }),
        }
    }

    /// Makes this durable as the configuration, unless it is that already.
    pub fn write(&mut self, text: String) -> std::io::Result<()> {
        if self.text.as_ref() != Some(&text) {
            replace(&self.path, &text)?;
            self.text = Some(text);
        }
        Ok(())
    }
}

/// Replaces a file as a whole, durably: a crash leaves the old one or the new one.
pub fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = directory.join(name);
    let written = std::fs::File::create(&fresh)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&fresh, path))
        .and_then(|()| std::fs::File::open(directory)?.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "{\"version\": 1, \"subsystems\": []}";

    #[test]
    fn a_saved_configuration_reads_back_and_is_replaced_as_a_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let mut saved = Saved::of_directory(directory.path());
        assert!(saved.read(false).unwrap().is_none() && !saved.exists());
        saved.write(TEXT.to_owned()).unwrap();
        assert_eq!(saved.read(true).unwrap().unwrap(), TEXT.as_bytes());
        // No room for another: the directory takes none.
        std::fs::remove_file(saved.path()).unwrap();
        std::fs::create_dir(saved.path()).unwrap();
        assert!(saved.write(format!("{TEXT} ")).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing half-written stays");
    }

    #[test]
    fn a_saved_configuration_that_is_damaged_newer_or_gone_is_refused_with_the_way_forward() {
        let directory = tempfile::tempdir().unwrap();
        let saved = Saved::of_directory(directory.path());
        let refused = |text: &str| {
            std::fs::write(saved.path(), text).unwrap();
            saved.read(true).unwrap_err().to_string()
        };
        for damaged in ["", &TEXT[..TEXT.len() - 1], "\0\0\0\0", "{\"version\": 1, \"subsystems\": [{}]}"] {
            let text = refused(damaged);
            assert!(text.contains("put back a copy") && text.contains("--config FILE"), "{text}");
        }
        let newer = refused("{\"version\": 2, \"subsystems\": []}");
        assert!(newer.contains("start the longrun that wrote it") && newer.contains("--config FILE"), "{newer}");
        std::fs::remove_file(saved.path()).unwrap();
        let gone = saved.read(true).unwrap_err().to_string();
        assert!(gone.contains("is gone") && gone.contains("put back a copy"), "{gone}");
    }
}
