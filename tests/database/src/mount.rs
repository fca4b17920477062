//! The file system: one directory with two files, each on a device of its own.
//!
//! The kernel keeps nothing back: files are opened for direct I/O, so each `write` of a program is on the device, and
//! answered by it, before it returns; `fsync` is the device's flush.

use crate::file::{BlockDevice, DeviceFile, FileError};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The first file's inode; the directory is 1.
const FIRST_INODE: u64 = 2;
/// The kernel is not to remember lengths.
const NOT_AT_ALL: Duration = Duration::ZERO;

/// A mounted file system. Dropping it unmounts it.
pub struct Mount {
    directory: PathBuf,
    _session: BackgroundSession,
}

impl Mount {
    /// Mounts `files` at `directory`, an empty one. Needs root and /dev/fuse; libfuse is not used.
    ///
    /// # Errors
    ///
    /// If a device does not hold a file, or the kernel refuses the mount.
    pub fn new<D>(directory: &Path, files: Vec<(String, D)>) -> io::Result<Mount>
    where
        D: BlockDevice + Send + 'static,
    {
        let open = |(name, device): (String, D)| {
            let file = DeviceFile::open(device).map_err(|error| io::Error::other(format!("{name}: {error}")))?;
            Ok((name, file))
        };
        let files = files.into_iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("longrun".to_owned()), MountOption::NoAtime];
        let session = fuser::spawn_mount(Directory { files: Mutex::new(files) }, directory, &config)?;
        Ok(Mount { directory: directory.to_owned(), _session: session })
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

struct Directory<D> {
    files: Mutex<Vec<(String, DeviceFile<D>)>>,
}

type Files<'a, D> = MutexGuard<'a, Vec<(String, DeviceFile<D>)>>;

impl<D: BlockDevice + Send + 'static> Directory<D> {
    fn files(&self) -> Files<'_, D> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries `work` out on the file with this inode.
    fn with<T>(
        &self,
        inode: INodeNo,
        work: impl FnOnce(&mut DeviceFile<D>) -> Result<T, FileError>,
    ) -> Result<T, Errno> {
        let mut files = self.files();
        let (name, file) = place(inode).and_then(|at| files.get_mut(at)).ok_or(Errno::ENOENT)?;
        work(file).map_err(|error| errno(name, &error))
    }

    fn attributes(&self, inode: INodeNo) -> Result<FileAttr, Errno> {
        if inode == INodeNo::ROOT {
            return Ok(attributes(inode, FileType::Directory, 0));
        }
        let length = self.with(inode, |file| Ok(file.length()))?.ok_or(Errno::ENOENT)?;
        Ok(attributes(inode, FileType::RegularFile, length))
    }

    /// The inode of the file that is or could be called `name`.
    fn named(&self, name: &OsStr) -> Result<INodeNo, Errno> {
        let at = self.files().iter().position(|(there, _)| name == there.as_str()).ok_or(Errno::ENOENT)?;
        Ok(INodeNo(FIRST_INODE + at as u64))
    }
}

fn place(inode: INodeNo) -> Option<usize> {
    usize::try_from(inode.0.checked_sub(FIRST_INODE)?).ok()
}

fn errno(name: &str, error: &FileError) -> Errno {
    match error {
        FileError::Full { .. } => {
            eprintln!("{name}: {error}");
            Errno::ENOSPC
        }
        // The end of the primary is what the rounds are for.
        _ => Errno::EIO,
    }
}

fn attributes(ino: INodeNo, kind: FileType, size: u64) -> FileAttr {
    let is_directory = kind == FileType::Directory;
    FileAttr {
        ino,
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: if is_directory { 0o755 } else { 0o644 },
        nlink: if is_directory { 2 } else { 1 },
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl<D: BlockDevice + Send + 'static> Filesystem for Directory<D> {
    fn lookup(&self, _: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.named(name).and_then(|inode| self.attributes(inode)) {
            Ok(attributes) => reply.entry(&NOT_AT_ALL, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Ok(attributes) => reply.attr(&NOT_AT_ALL, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let resized = size.map_or(Ok(()), |size| self.with(inode, |file| file.set_length(size)));
        match resized.and_then(|()| self.attributes(inode)) {
            Ok(attributes) => reply.attr(&NOT_AT_ALL, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        _: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        // Only the two files can be made.
        let inode = self.named(name).map_err(|_| Errno::EPERM);
        let created = inode.and_then(|inode| self.with(inode, DeviceFile::create).map(|()| inode));
        match created.and_then(|inode| self.attributes(inode)) {
            Ok(attributes) => {
                let direct = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&NOT_AT_ALL, &attributes, Generation(0), FileHandle(0), direct);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.named(name).and_then(|inode| self.with(inode, DeviceFile::remove)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.with(inode, |file| file.read(offset, size as usize)) {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.with(inode, |file| file.write(offset, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.with(inode, DeviceFile::flush) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    /// Which files there are is on their devices.
    fn fsyncdir(&self, _: &Request, _inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.files().iter_mut().try_for_each(|(_, file)| file.flush()) {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn readdir(&self, _: &Request, _inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let files = self.files();
        let there = (FIRST_INODE..).zip(files.iter()).filter(|(_, (_, file))| file.length().is_some());
        let entries = [(1, FileType::Directory, "."), (1, FileType::Directory, "..")]
            .into_iter()
            .chain(there.map(|(inode, (name, _))| (inode, FileType::RegularFile, name.as_str())));
        for (next, (inode, kind, name)) in (1..).zip(entries).skip(offset as usize) {
            if reply.add(INodeNo(inode), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
