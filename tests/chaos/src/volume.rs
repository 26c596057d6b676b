//! A small volume that can be filled up: a tmpfs, which needs root.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};

pub struct Volume {
    dir: tempfile::TempDir,
}

impl Volume {
    pub fn mount(mib: u32) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let size = format!("size={mib}m,mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "atoll-chaos"]).arg(dir.path());
        let ran = mount.output().context("cannot run mount")?;
        ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr).trim());
        Ok(Self { dir })
    }

    /// Where a process may keep its data.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn ballast(&self) -> PathBuf {
        self.dir.path().join("ballast")
    }

    /// Leaves so many bytes free. Zero: none at all.
    pub fn fill(&self, leave: u64) -> anyhow::Result<()> {
        let stat = rustix::fs::statvfs(self.dir.path())?;
        let free = (stat.f_bavail * stat.f_frsize).saturating_sub(leave);
        let file = std::fs::File::options().create(true).append(true).open(self.ballast())?;
        let from = file.metadata()?.len();
        // Processes take some of it meanwhile: then there is less, which is just as well.
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), from, free.max(1)) {
            Ok(()) | Err(rustix::io::Errno::NOSPC) => Ok(()),
            Err(error) => Err(error).context("cannot fill a volume"),
        }
    }

    pub fn free(&self) -> anyhow::Result<()> {
        match std::fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: whatever still uses it is about to end. What fails leaves a mount behind.
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}
