//! Free space and the reserve file.

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Bytes an ordinary user may still write on the file system that holds `path`.
///
/// # Errors
/// What the kernel says.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes a file that really occupies `bytes`. One that is there and large enough stays; on failure none is left.
///
/// # Errors
/// What the file system says, `StorageFull` above all.
pub fn reserve(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.len() == bytes {
        return Ok(());
    }
    let made = file.set_len(0).and_then(|()| occupy(&file, bytes)).and_then(|()| file.sync_all());
    if made.is_err() {
        release(path)?;
    }
    made
}

/// Removes the reserve file, if it is there.
///
/// # Errors
/// What the file system says.
pub fn release(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn occupy(mut file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // FAT and some others cannot: zeros do it there.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let zeros = [0u8; 8 * 1_024];
            let mut left = bytes;
            while left > 0 {
                let now = left.min(zeros.len() as u64) as usize;
                file.write_all(&zeros[..now])?;
                left -= now as u64;
            }
            Ok(())
        }
        other => other.map_err(io::Error::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_reserve_occupies_space_and_gives_it_back() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("reserve");
        for bytes in [1 << 20, 1 << 20, 1 << 16] {
            reserve(&path, bytes).expect("space");
            let meta = fs::metadata(&path).expect("file");
            assert_eq!(meta.len(), bytes);
            assert!(meta.blocks() * 512 >= bytes, "{} blocks are not {bytes} bytes", meta.blocks());
        }
        release(&path).expect("removed");
        release(&path).expect("nothing to remove is well");
        assert!(!path.exists());
    }

    #[test]
    fn a_reserve_that_does_not_fit_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("reserve");
        assert!(free_bytes(dir.path()).expect("statvfs") > 0);
        reserve(&path, 1 << 60).expect_err("no disk is this large");
        assert!(!path.exists());
    }
}
