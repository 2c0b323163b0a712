//! The one seam through which the store touches files: a folder is a [`Disk`], a file in it a [`DiskFile`].
//!
//! Tests put a disk behind it that loses power, fills up and rots (`store::testing`).

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Name of the file whose lock says that a process owns the folder.
const LOCK_NAME: &str = "store.lock";

/// A folder of files.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens a file for reading and writing, an empty one where there is none.
    ///
    /// # Errors
    /// Any of the system's.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Names of all files, in no order.
    ///
    /// # Errors
    /// Any of the system's.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Whether there is a file of this name.
    ///
    /// # Errors
    /// Any of the system's.
    fn has(&self, name: &str) -> io::Result<bool> {
        Ok(self.names()?.iter().any(|n| n == name))
    }

    /// Gives a file another name and makes that durable. The new name must be free.
    ///
    /// # Errors
    /// Any of the system's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// Any of the system's.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Takes the folder for this process, until the value is dropped; `None` when another holds it.
    ///
    /// # Errors
    /// Any of the system's.
    fn lock(&self) -> io::Result<Option<Box<dyn FolderLock>>>;

    /// Where it is, for messages to people.
    fn describe(&self) -> String;
}

/// Held while a folder is owned.
pub trait FolderLock: fmt::Debug + Send + Sync {}

/// A file of bytes that can be written anywhere.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Length in bytes.
    ///
    /// # Errors
    /// Any of the system's.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// Any of the system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Bytes it occupies on the disk: fewer than its length where it has holes.
    ///
    /// # Errors
    /// Any of the system's.
    fn disk_bytes(&self) -> io::Result<u64> {
        self.len()
    }

    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// Any of the system's; `UnexpectedEof` when the file ends before `out` is full.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Cuts the file, or extends it with zeroes.
    ///
    /// # Errors
    /// Any of the system's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes everything written so far survive a loss of power.
    ///
    /// # Errors
    /// Any of the system's; what was written may then be lost even if a later call succeeds.
    fn sync_data(&self) -> io::Result<()>;

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// Any of the system's; part of the data may have been written.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Takes the file for this handle alone; false when another handle holds it.
    ///
    /// # Errors
    /// Any of the system's.
    fn try_lock(&self) -> io::Result<bool>;

    /// Gives the lock back, if it is held.
    ///
    /// # Errors
    /// Any of the system's.
    fn unlock(&self) -> io::Result<()>;
}

/// A folder of the file system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    folder: PathBuf,
}

impl RealDisk {
    /// The folder, created (mode 0700) with its parents where it is missing.
    ///
    /// # Errors
    /// Any of the system's.
    pub fn create(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// A folder that must be there already.
    ///
    /// # Errors
    /// `NotFound` or `NotADirectory` when it is not.
    pub fn existing(folder: &Path) -> io::Result<Self> {
        if fs::metadata(folder)?.is_dir() {
            Ok(Self { folder: folder.to_owned() })
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.folder.join(name);
        let mut options = File::options();
        options.read(true).write(true).mode(0o600);
        let file = match options.clone().open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let file = options.create(true).truncate(false).open(&path)?;
                // The name must survive as surely as the first commit in the file.
                self.sync_folder()?;
                file
            }
            other => other?,
        };
        Ok(Arc::new(RealFile { file, locked: AtomicBool::new(false) }))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            // A name that is not UTF-8 is not one of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let target = self.folder.join(to);
        if fs::symlink_metadata(&target).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(self.folder.join(from), target)?;
        self.sync_folder()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.folder.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }?;
        self.sync_folder()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn FolderLock>>> {
        let path = self.folder.join(LOCK_NAME);
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(RealLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn describe(&self) -> String {
        self.folder.display().to_string()
    }
}

/// The lock goes with the descriptor, so a killed process leaves none behind.
#[derive(Debug)]
struct RealLock {
    _file: File,
}

impl FolderLock for RealLock {}

#[derive(Debug)]
struct RealFile {
    file: File,
    locked: AtomicBool,
}

impl RealFile {
    /// A file without a name is gone with its last descriptor, whatever was written to it.
    fn is_there(&self) -> io::Result<()> {
        if self.file.metadata()?.nlink() > 0 {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, "its file has no name any more"))
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn disk_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().and_then(|()| self.is_there()).inspect_err(|_| {
            // Linux then calls pages clean that never reached the disk, and goes on showing them. Forgotten, so that
            // whoever opens the file anew reads what is really there.
            let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => {
                self.locked.store(true, Ordering::Release);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        if self.locked.swap(false, Ordering::AcqRel) { self.file.unlock() } else { Ok(()) }
    }
}

/// What the files were asked to do, for the wear metric. Shared by a store and its files.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes written to database and journal since they were opened.
    pub written_bytes: AtomicU64,
    /// Syncs of both since they were opened.
    pub syncs: AtomicU64,
    /// What the database file occupies on the disk, in bytes, since its last sync.
    pub file_bytes: AtomicU64,
    /// Length of the journal, in bytes.
    pub journal_bytes: AtomicU64,
}

/// A [`DiskFile`] that counts. What the store hands to redb.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) traffic: Arc<Traffic>,
}

impl redb::StorageBackend for Counted {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.traffic.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()?;
        self.traffic.file_bytes.store(self.file.disk_bytes()?, Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.traffic.written_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.unlock()
    }

    // redb asks for byte ranges first and, where those are not supported, for the whole file.
    fn try_lock_range(&self, start: Bound, end: Bound) -> Result<bool, redb::BackendError> {
        if whole(start, end) { Ok(self.file.try_lock()?) } else { Err(redb::BackendError::Unsupported) }
    }

    fn unlock_range(&self, start: Bound, end: Bound) -> Result<(), redb::BackendError> {
        if whole(start, end) { Ok(self.file.unlock()?) } else { Err(redb::BackendError::Unsupported) }
    }
}

type Bound = std::ops::Bound<u64>;

fn whole(start: Bound, end: Bound) -> bool {
    matches!(start, Bound::Unbounded | Bound::Included(0)) && end == Bound::Unbounded
}
