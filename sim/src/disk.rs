//! Disks of simulated machines: real logs and snapshots in a directory, which lose at a power cut what
//! was not synced, and fail when they are told to.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io,
    ops::ControlFlow,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use atoll::{config::Config, world::Storage};
use atoll_store::{
    Entries, FileLog, Files, Index, Log, LogOptions, MemoryIndex, RealFiles, Snapshots, StoreError,
};
use rand::{Rng as _, rngs::StdRng};

use crate::{planted::Planted, trace::Trace};

/// A disk: what is kept through crashes of its machine.
#[derive(Default)]
pub struct Disk {
    index: MemoryIndex,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The file that the log writes, and how much of it is durable.
    durable: Option<(PathBuf, u64)>,
    /// Other files that may not be durable, by their number.
    files: BTreeMap<u64, Fresh>,
    /// Renames of directories that were not synced, from and to.
    renames: Vec<(PathBuf, PathBuf)>,
    /// Steps with such files after which the machine dies.
    die_after: Option<u32>,
    died: bool,
    fail_sync: bool,
    full: bool,
    planted: Option<Planted>,
    /// Every record of the log, also those that the log itself has been cut off behind a snapshot.
    records: BTreeMap<u64, Vec<u8>>,
}

/// A file of which a part is durable.
struct Fresh {
    path: PathBuf,
    durable: u64,
}

/// Takes away what of a file is not durable, all or a part of it; what is left may be torn. Returns how
/// many bytes are lost.
fn tear(path: &Path, durable: u64, random: &mut StdRng) -> io::Result<u64> {
    // Of one that was removed meanwhile, nothing is left to lose.
    let Ok(file) = File::options().read(true).write(true).open(path) else { return Ok(0) };
    let lost = file.metadata()?.len().saturating_sub(durable);
    if lost == 0 {
        return Ok(0);
    }
    let left = random.random_range(0..=lost);
    file.set_len(durable + left)?;
    if left > 0 && random.random_bool(0.5) {
        let at = durable + random.random_range(0..left);
        let noise: Vec<u8> = (at..durable + left).map(|_| random.random()).collect();
        file.write_all_at(&noise, at)?;
    }
    Ok(lost - left)
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next sync fails.
    pub fn fail_sync(&self) {
        self.lock().fail_sync = true;
    }

    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    pub fn plant(&self, bug: Option<Planted>) {
        self.lock().planted = bug;
    }

    /// After so many more steps of writing a snapshot the machine dies.
    pub fn die_after(&self, steps: u32) {
        self.lock().die_after = Some(steps);
    }

    pub fn die_not(&self) {
        self.lock().die_after = None;
    }

    /// Whether the machine has died so.
    pub fn take_died(&self) -> bool {
        std::mem::take(&mut self.lock().died)
    }

    /// Every record that was ever in the log, and was not lost with a crash.
    pub fn records(&self) -> Vec<Vec<u8>> {
        self.lock().records.values().cloned().collect()
    }

    /// What the index has of a kind, if its process was stopped in good order.
    pub fn entries(&self, kind: u8) -> Result<Entries, StoreError> {
        let mut entries = Vec::new();
        self.index.scan_prefix(&[kind], &mut |key, value| {
            entries.push((key.to_vec(), value.to_vec()));
        })?;
        Ok(entries)
    }

    /// Takes away what was not synced: ends of files, and names. Returns how many bytes are lost.
    pub fn cut_power(&self, random: &mut StdRng) -> io::Result<u64> {
        let mut state = self.lock();
        let mut lost = 0;
        if let Some((path, durable)) = &state.durable {
            lost += tear(path, *durable, random)?;
        }
        for (from, to) in std::mem::take(&mut state.renames).into_iter().rev() {
            if random.random_bool(0.5) && fs::rename(&to, &from).is_ok() {
                let moved = state.files.values_mut().filter(|file| file.path == to);
                moved.for_each(|file| file.path.clone_from(&from));
            }
        }
        for file in std::mem::take(&mut state.files).into_values() {
            lost += tear(&file.path, file.durable, random)?;
        }
        Ok(lost)
    }

    /// Opens what is on the disk, for a process that lives as long as `alive` says.
    pub fn open(
        self: &Arc<Self>,
        dir: &Path,
        config: &Config,
        salt: u64,
        alive: &Arc<AtomicBool>,
        trace: (&str, &Trace),
    ) -> Result<Storage, StoreError> {
        let (disk, alive) = (self.clone(), alive.clone());
        let options = LogOptions {
            max_record_bytes: 64 << 20,
            salt,
            segment_bytes: config.storage.segment_bytes,
            ..LogOptions::default()
        };
        let inner = FileLog::open(&dir.join("log"), options)?;
        let (path, end) = inner.durable();
        let mut state = disk.lock();
        state.durable = Some((path.to_owned(), end));
        state.records.split_off(&inner.next());
        drop(state);
        let files = Mortal { disk: disk.clone(), alive: alive.clone() };
        let snapshots = Snapshots::with_files(&dir.join("snapshots"), Arc::new(files))?;
        let index = Mortal { disk: disk.clone(), alive: alive.clone() };
        let of = Mortal { disk, alive };
        let log = DiskLog {
            late: VecDeque::new(),
            opened: sim_now(),
            inner,
            of,
            at: trace.0.to_owned(),
            trace: trace.1.clone(),
        };
        Ok(Storage { log: Box::new(log), index: Arc::new(index), snapshots })
    }
}

/// A disk as one process has it.
#[derive(Clone)]
struct Mortal {
    disk: Arc<Disk>,
    alive: Arc<AtomicBool>,
}

/// How late the log is, if that bug is planted.
const LATE: Duration = Duration::from_millis(200);

fn sim_now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

fn dead() -> StoreError {
    let reason = "the simulated process has ended".to_owned();
    StoreError::Io { op: "write in", path: PathBuf::from("a simulated disk"), reason }
}

impl Mortal {
    fn check(&self) -> Result<(), StoreError> {
        if self.alive.load(Ordering::Relaxed) { Ok(()) } else { Err(dead()) }
    }

    /// Counts a step with a file that is not the log; the machine may die at it.
    fn step(&self) -> io::Result<()> {
        self.check_room()?;
        let mut state = self.disk.lock();
        match state.die_after {
            Some(0) => {
                (state.die_after, state.died) = (None, true);
                self.alive.store(false, Ordering::Relaxed);
                Err(io::Error::other(dead()))
            }
            left => {
                state.die_after = left.map(|left| left - 1);
                Ok(())
            }
        }
    }

    fn check_room(&self) -> io::Result<()> {
        self.check().map_err(io::Error::other)?;
        if self.disk.lock().full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

struct DiskLog {
    inner: FileLog,
    /// Records that are not in the log although they should be, if that bug is planted.
    late: VecDeque<(Duration, Vec<u8>)>,
    opened: Duration,
    of: Mortal,
    at: String,
    trace: Trace,
}

impl DiskLog {
    fn put(&mut self, record: &[u8]) -> Result<u64, StoreError> {
        let number = self.inner.append(record)?;
        self.of.disk.lock().records.insert(number, record.to_vec());
        Ok(number)
    }

    fn note_durable(&self) {
        let (path, end) = self.inner.durable();
        let mut state = self.of.disk.lock();
        let same = state.durable.as_ref().is_some_and(|(known, _)| known == path);
        // A disk that lies has still kept what it has kept.
        if state.planted != Some(Planted::NoSync) || !same {
            state.durable = Some((path.to_owned(), end));
        }
    }
}

impl Log for DiskLog {
    fn append(&mut self, record: &[u8]) -> Result<u64, StoreError> {
        self.of.check()?;
        if self.of.disk.lock().full {
            return Err(StoreError::Full {
                op: "append to",
                path: self.inner.durable().0.to_owned(),
            });
        }
        self.trace.note(&self.at, "appends", record);
        // A start reads what it has just written.
        let is_up = self.opened + Duration::from_secs(1) < sim_now();
        if is_up && self.of.disk.lock().planted == Some(Planted::LateLog) {
            self.late.push_back((sim_now(), record.to_vec()));
            return Ok(self.next() - 1);
        }
        let number = self.put(record)?;
        self.note_durable();
        Ok(number)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.of.check()?;
        if std::mem::take(&mut self.of.disk.lock().fail_sync) {
            let path = self.inner.durable().0.to_owned();
            return Err(StoreError::Io { op: "sync", path, reason: "on purpose".to_owned() });
        }
        self.inner.sync()?;
        self.note_durable();
        while let Some((_, record)) = self.late.pop_front_if(|(at, _)| *at + LATE < sim_now()) {
            self.put(&record)?;
        }
        Ok(())
    }

    fn next(&self) -> u64 {
        self.inner.next() + self.late.len() as u64
    }

    fn first(&self) -> u64 {
        self.inner.first()
    }

    fn cut(&mut self, before: u64) -> Result<(), StoreError> {
        self.of.check()?;
        self.inner.cut(before)
    }

    fn is_low(&mut self) -> bool {
        self.of.disk.lock().full
    }

    fn visit(
        &self,
        from: u64,
        f: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.visit(from, f)
    }
}

impl Index for Mortal {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.disk.index.get(key)
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.check()?;
        self.disk.index.put(key, value)
    }

    fn delete(&self, key: &[u8]) -> Result<(), StoreError> {
        self.check()?;
        self.disk.index.delete(key)
    }

    fn scan_prefix(
        &self,
        prefix: &[u8],
        f: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        self.disk.index.scan_prefix(prefix, f)
    }

    fn scan_after(&self, after: &[u8], max: usize) -> Result<Entries, StoreError> {
        self.disk.index.scan_after(after, max)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.check()
    }

    fn wipe(&self) -> Result<(), StoreError> {
        self.check()?;
        self.disk.index.wipe()
    }

    fn mark_clean(&self, payload: &[u8]) -> Result<(), StoreError> {
        self.check()?;
        self.disk.index.mark_clean(payload)
    }

    fn take_clean(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.check()?;
        self.disk.index.take_clean()
    }
}

impl Files for Mortal {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.step()?;
        let file = RealFiles.create(path)?;
        let fresh = Fresh { path: path.to_owned(), durable: 0 };
        self.disk.lock().files.insert(file.metadata()?.ino(), fresh);
        Ok(file)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.step() {
            // Dying, it has written a part.
            RealFiles.write(file, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        RealFiles.write(file, bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.step()?;
        let (number, length) = (file.metadata()?.ino(), file.metadata()?.len());
        let mut state = self.disk.lock();
        if state.planted != Some(Planted::RawSnapshot)
            && let Some(file) = state.files.get_mut(&number)
        {
            file.durable = length;
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        RealFiles.rename(from, to)?;
        let mut state = self.disk.lock();
        let moved = state.files.values_mut().filter(|file| file.path == from);
        moved.for_each(|file| to.clone_into(&mut file.path));
        state.renames.push((from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step()?;
        self.disk.lock().renames.retain(|(_, to)| to.parent() != Some(dir));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check().map_err(io::Error::other)?;
        fs::remove_file(path)?;
        let mut state = self.disk.lock();
        state.files.retain(|_, file| file.path != path);
        state.renames.retain(|(_, to)| to != path);
        Ok(())
    }
}
