//! What happens in a run, as one digest: two runs of a seed that differ anywhere differ here.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy_primitives::B256;

/// Events of a run, in order. Copies write to the same one.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Events>>);

struct Events {
    hasher: blake3::Hasher,
    count: u64,
    file: Option<BufWriter<File>>,
}

impl Trace {
    /// With a file, each event is a line in it.
    pub fn new(file: Option<File>) -> Self {
        let file = file.map(BufWriter::new);
        Self(Arc::new(Mutex::new(Events { hasher: blake3::Hasher::new(), count: 0, file })))
    }

    /// Notes something that has happened at a machine, with its content.
    pub fn note(&self, at: &str, what: &str, content: &[u8]) {
        let now = turmoil::sim_elapsed().unwrap_or(Duration::MAX);
        self.note_at(now, at, what, content);
    }

    pub fn note_at(&self, now: Duration, at: &str, what: &str, content: &[u8]) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.count += 1;
        let digest = blake3::hash(content);
        let line =
            format!("{} {at} {what} {} {}\n", now.as_nanos(), content.len(), digest.to_hex());
        events.hasher.update(line.as_bytes());
        if let Some(file) = &mut events.file {
            // Only for whoever looks for the first difference.
            let _ = file.write_all(line.as_bytes());
            let _ = writeln!(file, "  {}", content[..content.len().min(256)].escape_ascii());
        }
    }

    /// How many events there were, and their digest.
    pub fn digest(&self) -> (u64, B256) {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (events.count, B256::from(*events.hasher.finalize().as_bytes()))
    }
}
