//! Disks that a test may fill up or make read-only, seen by nobody else.
//!
//! A thread with mounts of its own runs the test; processes that it starts see them too. Threads that others have
//! started (RocksDB keeps some) do not, so what needs those belongs into a process of its own.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// What a test may mount. It all goes when the test ends.
#[derive(Debug)]
pub struct Mounts(());

/// Runs a test that may mount disks. Where the system does not allow that, it says so and runs nothing.
///
/// # Panics
/// The test does.
pub fn with_mounts(test: impl FnOnce(&Mounts) + Send) {
    let run = || {
        // SAFETY: descriptors stay shared; the working folder and the mounts of this thread alone become its own.
        let unshared = unsafe { unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) };
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        match unshared.and_then(|()| mount_change("/", private)) {
            Ok(()) => test(&Mounts(())),
            #[expect(clippy::print_stderr, reason = "whoever reads the output of a test is to see that it did nothing")]
            Err(error) => eprintln!("skipped: this user may not mount anything ({error})"),
        }
    };
    let result = thread::scope(|scope| scope.spawn(run).join());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

impl Mounts {
    /// Mounts an empty disk of so many bytes over a folder, which is made if need be.
    ///
    /// # Panics
    /// It cannot be mounted.
    pub fn disk(&self, at: &Path, bytes: u64) -> Disk {
        fs::create_dir_all(at).unwrap();
        let options = std::ffi::CString::new(format!("size={bytes},mode=0755")).unwrap();
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), options.as_c_str())
            .unwrap_or_else(|e| panic!("mount a disk at {}: {e}", at.display()));
        Disk { at: at.to_owned() }
    }

    /// Mounts an empty disk of so many bytes, of the file system that most Linux machines have, over a folder: there
    /// names and folders take room too. The image lies beside the folder.
    ///
    /// Returns nothing where this machine cannot make one.
    pub fn ext4_disk(&self, at: &Path, bytes: u64) -> Option<Disk> {
        fs::create_dir_all(at).unwrap();
        let image = at.with_extension("image");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let succeeds = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        // without blocks that only root may use: these tests are root
        let made = succeeds(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        (made && succeeds(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at)))
            .then(|| Disk { at: at.to_owned() })
    }

    /// Mounts a folder over another one, which is made if need be: both are of one file system.
    ///
    /// # Panics
    /// It cannot be mounted.
    pub fn bind(&self, folder: &Path, at: &Path) -> Disk {
        fs::create_dir_all(at).unwrap();
        mount_bind(folder, at).unwrap_or_else(|e| panic!("mount {} at {}: {e}", folder.display(), at.display()));
        Disk { at: at.to_owned() }
    }

    /// Makes a folder read-only, with all that is in it.
    ///
    /// # Panics
    /// It cannot be mounted so.
    pub fn make_read_only(&self, folder: &Path) {
        let shown = folder.display();
        mount_bind(folder, folder).unwrap_or_else(|e| panic!("mount {shown}: {e}"));
        mount_remount(folder, MountFlags::BIND | MountFlags::RDONLY, "")
            .unwrap_or_else(|e| panic!("mount {shown} read-only: {e}"));
    }
}

/// A small disk.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Writes a file `filler` until not one byte more is taken.
    ///
    /// # Panics
    /// The disk fails in another way than by being full.
    pub fn fill(&self) {
        self.fill_up_to(0);
    }

    /// Writes a file `filler` until so many bytes are left, about.
    ///
    /// # Panics
    /// As [`Disk::fill`].
    pub fn fill_up_to(&self, left_bytes: u64) {
        let mut filler = File::options().append(true).create(true).open(self.at.join("filler")).unwrap();
        for length in [1 << 16, 1 << 12, 1] {
            let bytes = vec![0; length];
            while left_bytes == 0 || self.free_bytes() > left_bytes + length as u64 {
                match filler.write(&bytes) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("fill {}: {error}", self.at.display()),
                }
            }
        }
        filler.sync_all().unwrap();
    }

    /// Removes what [`Disk::fill`] wrote.
    ///
    /// # Panics
    /// Nothing was filled.
    pub fn empty(&self) {
        fs::remove_file(self.at.join("filler")).unwrap();
    }

    /// Takes it away, with all that is on it.
    ///
    /// # Panics
    /// It is in use.
    pub fn unmount(self) {
        unmount(&self.at, UnmountFlags::empty()).unwrap_or_else(|e| panic!("unmount {}: {e}", self.at.display()));
    }

    /// Returns how many bytes can be written.
    ///
    /// # Panics
    /// The disk is gone.
    pub fn free_bytes(&self) -> u64 {
        let space = rustix::fs::statvfs(&self.at).unwrap();
        space.f_bavail * space.f_frsize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_filled_emptied_and_seen_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("disk");
        let mut ran = false;
        with_mounts(|mounts| {
            let disk = mounts.disk(&at, 1 << 20);
            fs::write(at.join("file"), b"content").unwrap();
            disk.fill();
            assert_eq!(disk.free_bytes(), 0);
            assert_eq!(fs::write(at.join("more"), b"x").unwrap_err().kind(), ErrorKind::StorageFull);
            disk.empty();
            assert!(disk.free_bytes() > 900_000);
            mounts.make_read_only(&at);
            assert_eq!(fs::write(at.join("more"), b"x").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
            assert_eq!(fs::read(disk.path().join("file")).unwrap(), b"content");
            ran = true;
        });
        assert!(!at.join("file").exists());
        assert_eq!(ran, at.exists());
    }
}
