//! The socket's file: whose it is, who may open it, and when an old one may go.

use std::fs::{File, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{CONNECTIONS_MAX, ServerError};

/// For the owner only: who can open the socket can delete volumes.
const MODE: u32 = 0o600;

/// A bound socket's place in the file system. Removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    lock_path: PathBuf,
    /// Held as long as the socket is served. Two processes that start at the same moment both find the old socket
    /// dead; without the lock the second would remove the first one's new one.
    _lock: File,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Binds `path` and listens.
    pub(super) fn bind(path: &Path) -> Result<(Self, UnixListener), ServerError> {
        let io = |doing| move |source| ServerError::Io { path: path.to_owned(), doing, source };
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = take_lock(path, &lock_path)?;
        remove_stale(path)?;

        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(io("create"))?;
        // On Linux a socket's file gets the mode that the socket has when it is bound: no moment in which others
        // could open it, as there would be with a chmod afterwards.
        let handle = File::from(OwnedFd::from(socket));
        handle.set_permissions(Permissions::from_mode(MODE)).map_err(io("set the permissions of"))?;
        let socket = Socket::from(OwnedFd::from(handle));
        let address = SockAddr::unix(path).map_err(io("bind"))?;
        socket.bind(&address).map_err(io("bind"))?;
        let file = Self { path: path.to_owned(), lock_path, _lock: lock };
        let backlog = i32::try_from(CONNECTIONS_MAX).unwrap_or(i32::MAX);
        socket.listen(backlog).map_err(io("listen on"))?;
        Ok((file, UnixListener::from(OwnedFd::from(socket))))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // In this order, and the lock last: who gets the lock finds nothing of ours.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Takes the lock beside the socket, or says who has it.
fn take_lock(path: &Path, lock_path: &Path) -> Result<File, ServerError> {
    let io = |doing| move |source| ServerError::Io { path: lock_path.to_owned(), doing, source };
    loop {
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(MODE)
            .open(lock_path)
            .map_err(io("create"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ServerError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
        // The file may have been removed by its former owner between our opening and locking it; then what we hold
        // is no lock at all, because the next one creates a new file.
        let ours = lock.metadata().map_err(io("look at"))?;
        match std::fs::metadata(lock_path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(lock),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(io("look at")(source)),
        }
    }
}

/// Removes a socket that nobody answers at.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    let io = |doing| move |source| ServerError::Io { path: path.to_owned(), doing, source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io("look at")(source)),
        Ok(there) if !there.file_type().is_socket() => return Err(ServerError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ServerError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(io("remove")),
        Err(source) => Err(io("find out who serves")(source)),
    }
}
