mod file;
mod frame;
mod memory;
mod scan;

use std::ops::ControlFlow;

pub use file::FileLog;
pub use memory::MemoryLog;
pub use scan::Opened;

use crate::StoreError;

/// An append-only log of records, numbered from 1.
pub trait Log: Send {
    /// Adds a record and returns its number. It is durable only when [`Log::sync`] has returned.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::TooLarge`] leave the log as it was, and usable.
    /// After any other error every later call gives [`StoreError::Poisoned`].
    fn append(&mut self, record: &[u8]) -> Result<u64, StoreError>;

    /// Makes every record appended so far durable.
    ///
    /// # Errors
    /// After any error every later call gives [`StoreError::Poisoned`]: a kernel that failed to
    /// write a page may call it clean, so that a second sync would succeed without the data.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// The number the next record will get.
    fn next(&self) -> u64;

    /// Shows the records from number `from` on, in order and synced or not, until `f` breaks off.
    /// [`Replay::replay`] is the same for a callback that can fail.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] before the first record that is not what was appended.
    fn visit(
        &self,
        from: u64,
        f: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;
}

impl<L: Log + ?Sized> Log for Box<L> {
    fn append(&mut self, record: &[u8]) -> Result<u64, StoreError> {
        (**self).append(record)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        (**self).sync()
    }

    fn next(&self) -> u64 {
        (**self).next()
    }

    fn visit(
        &self,
        from: u64,
        f: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        (**self).visit(from, f)
    }
}

/// What [`Replay::replay`] does with a record: its number and its bytes.
pub type OnRecord<'a, E> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), E>;

/// Replay with the caller's own error, for every [`Log`].
pub trait Replay: Log {
    /// Gives `f` the records from number `from` on, in order, until it returns an error.
    ///
    /// # Errors
    /// The error of `f`, or that of [`Log::visit`].
    fn replay<E: From<StoreError>>(&self, from: u64, f: OnRecord<'_, E>) -> Result<(), E> {
        let mut failed = None;
        self.visit(from, &mut |number, record| match f(number, record) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                failed = Some(e);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }
}

impl<L: Log + ?Sized> Replay for L {}

/// Limits of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// A segment is closed before it would grow over this; one record always fits.
    pub segment_bytes: u64,
    /// Longer records are refused. May be lowered later: what is stored stays readable.
    pub max_record_bytes: u32,
    /// A random number, used only when the log is created and then kept in it. It makes sure that
    /// bytes inside a client's transaction cannot pass for a record when a torn tail is examined.
    pub salt: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, max_record_bytes: 8 << 20, salt: 0 }
    }
}
