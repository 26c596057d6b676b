use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Entries, Files, Index, Log, RealFiles, StoreError};

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Append,
    Sync,
    Visit,
    Get,
    Put,
    Delete,
    Scan,
    Flush,
    Wipe,
    MarkClean,
    TakeClean,
    /// Forgetting the front of a log.
    Cut,
    /// Looking whether there is room: it fails if there is none.
    Room,
    /// Steps of taking a snapshot.
    Create,
    Write,
    SyncFile,
    Rename,
    SyncDir,
    Remove,
}

/// Says which calls fail; clones share one plan, so that a test keeps control of a store that it
/// has given away.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    plans: Arc<Mutex<HashMap<Call, Plan>>>,
}

#[derive(Debug)]
struct Plan {
    /// Calls that still succeed before the failure.
    left: u64,
    forever: bool,
    error: StoreError,
}

impl Faults {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The `nth` such call from now on fails, once; 1 is the next.
    pub fn fail(&self, call: Call, nth: u64, error: StoreError) {
        self.plan(call, nth, false, error);
    }

    /// Such calls fail from the `nth` on, until [`Faults::heal`].
    pub fn fail_from(&self, call: Call, nth: u64, error: StoreError) {
        self.plan(call, nth, true, error);
    }

    /// Such calls succeed again.
    pub fn heal(&self, call: Call) {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).remove(&call);
    }

    fn plan(&self, call: Call, nth: u64, forever: bool, error: StoreError) {
        assert!(nth > 0, "calls are counted from 1");
        let plan = Plan { left: nth - 1, forever, error };
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).insert(call, plan);
    }

    fn check(&self, call: Call) -> Result<(), StoreError> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(plan) = plans.get_mut(&call) else {
            return Ok(());
        };
        if plan.left > 0 {
            plan.left -= 1;
            return Ok(());
        }
        let error = plan.error.clone();
        if !plan.forever {
            plans.remove(&call);
        }
        Err(error)
    }
}

/// A log that fails on purpose, and is poisoned by it just as [`FileLog`](crate::FileLog) is.
#[derive(Debug)]
pub struct FaultyLog<L> {
    inner: L,
    faults: Faults,
    poisoned: Option<String>,
}

impl<L: Log> FaultyLog<L> {
    pub fn new(inner: L, faults: Faults) -> Self {
        Self { inner, faults, poisoned: None }
    }

    fn check(&self) -> Result<(), StoreError> {
        match &self.poisoned {
            Some(cause) => Err(StoreError::poisoned(Path::new("the faulty log"), cause)),
            None => Ok(()),
        }
    }
}

impl<L: Log> Log for FaultyLog<L> {
    fn append(&mut self, record: &[u8]) -> Result<u64, StoreError> {
        self.check()?;
        let result = self.faults.check(Call::Append).and_then(|()| self.inner.append(record));
        result.inspect_err(|e| {
            if !matches!(e, StoreError::Full { .. } | StoreError::TooLarge { .. }) {
                self.poisoned = Some(e.to_string());
            }
        })
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.check()?;
        let result = self.faults.check(Call::Sync).and_then(|()| self.inner.sync());
        result.inspect_err(|e| self.poisoned = Some(e.to_string()))
    }

    fn next(&self) -> u64 {
        self.inner.next()
    }

    fn first(&self) -> u64 {
        self.inner.first()
    }

    fn cut(&mut self, before: u64) -> Result<(), StoreError> {
        self.check()?;
        self.faults.check(Call::Cut)?;
        self.inner.cut(before)
    }

    fn is_low(&mut self) -> bool {
        self.faults.check(Call::Room).is_err() || self.inner.is_low()
    }

    fn visit(
        &self,
        from: u64,
        f: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.check()?;
        self.faults.check(Call::Visit)?;
        self.inner.visit(from, f)
    }
}

/// An index that fails on purpose.
#[derive(Debug)]
pub struct FaultyIndex<I> {
    inner: I,
    faults: Faults,
}

impl<I: Index> FaultyIndex<I> {
    pub fn new(inner: I, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

impl<I: Index> Index for FaultyIndex<I> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.faults.check(Call::Get)?;
        self.inner.get(key)
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.faults.check(Call::Put)?;
        self.inner.put(key, value)
    }

    fn delete(&self, key: &[u8]) -> Result<(), StoreError> {
        self.faults.check(Call::Delete)?;
        self.inner.delete(key)
    }

    fn scan_prefix(
        &self,
        prefix: &[u8],
        f: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        self.faults.check(Call::Scan)?;
        self.inner.scan_prefix(prefix, f)
    }

    fn scan_after(&self, after: &[u8], max: usize) -> Result<Entries, StoreError> {
        self.faults.check(Call::Scan)?;
        self.inner.scan_after(after, max)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.faults.check(Call::Flush)?;
        self.inner.flush()
    }

    fn wipe(&self) -> Result<(), StoreError> {
        self.faults.check(Call::Wipe)?;
        self.inner.wipe()
    }

    fn mark_clean(&self, payload: &[u8]) -> Result<(), StoreError> {
        self.faults.check(Call::MarkClean)?;
        self.inner.mark_clean(payload)
    }

    fn take_clean(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.faults.check(Call::TakeClean)?;
        self.inner.take_clean()
    }
}

/// Files that fail on purpose.
#[derive(Clone, Debug, Default)]
pub struct FaultyFiles {
    pub faults: Faults,
}

impl FaultyFiles {
    fn check(&self, call: Call) -> io::Result<()> {
        self.faults.check(call).map_err(|error| match error {
            StoreError::Full { .. } => io::ErrorKind::StorageFull.into(),
            other => io::Error::other(other.to_string()),
        })
    }
}

impl Files for FaultyFiles {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.check(Call::Create)?;
        RealFiles.create(path)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.check(Call::Write) {
            RealFiles.write(file, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        RealFiles.write(file, bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.check(Call::SyncFile)?;
        RealFiles.sync(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(Call::Rename)?;
        RealFiles.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.check(Call::SyncDir)?;
        RealFiles.sync_dir(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check(Call::Remove)?;
        RealFiles.remove(path)
    }
}
