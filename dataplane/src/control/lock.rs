//! The run and state directories, and the lock that keeps a second dataplane out of one.

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Why a directory cannot be used.
#[derive(Debug)]
pub enum LockError {
    Directory { path: PathBuf, cause: io::Error },
    Held { path: PathBuf },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, cause } => {
                write!(f, "directory {}: {cause}", path.display())
            }
            Self::Held { path } => write!(
                f,
                "{} is held by another culvert-dataplane: stop that one first, or give this one a \
                 \"run_dir\" and \"state_dir\" of its own",
                path.display()
            ),
        }
    }
}

impl std::error::Error for LockError {}

/// Held as long as the process uses the directory.
#[derive(Debug)]
pub struct Lock {
    _file: OwnedFd,
}

impl Lock {
    /// Makes the directory (mode 0700) if it is not there, and takes its lock without waiting.
    pub fn take(run_dir: &Path) -> Result<Self, LockError> {
        let failed = |cause| LockError::Directory {
            path: run_dir.to_owned(),
            cause,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run_dir)
            .map_err(failed)?;
        let path = run_dir.join("dataplane.lock");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let file =
            open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| failed(errno.into()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(LockError::Held { path }),
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_refused_until_the_first_is_gone() {
        let dir = std::env::temp_dir().join(format!("culvert-lock-{}", std::process::id()));
        let first = Lock::take(&dir).unwrap();
        assert!(matches!(Lock::take(&dir), Err(LockError::Held { .. })));
        drop(first);
        Lock::take(&dir).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
