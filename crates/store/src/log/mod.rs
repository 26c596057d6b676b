mod file;
pub(crate) mod frame;
mod frozen;
mod memory;
mod reserve;
mod scan;

use std::ops::ControlFlow;

pub use file::FileLog;
pub use frozen::FrozenLog;
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

    /// The number of the oldest record that is kept; that of the next one if there is none.
    fn first(&self) -> u64;

    /// Forgets whole segments of records below number `before`, oldest first. Whoever calls it has
    /// made durable what stands for them.
    ///
    /// # Errors
    /// The log stays whole and usable: it reaches back as far as [`Log::first`] says then.
    fn cut(&mut self, before: u64) -> Result<(), StoreError>;

    /// Whether the volume is about to be full, or was met full, so that only what was set aside for
    /// that let the last records be written. Tries to set it aside again. Nothing new is to be begun
    /// while it is so.
    fn is_low(&mut self) -> bool {
        false
    }

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

    fn first(&self) -> u64 {
        (**self).first()
    }

    fn cut(&mut self, before: u64) -> Result<(), StoreError> {
        (**self).cut(before)
    }

    fn is_low(&mut self) -> bool {
        (**self).is_low()
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
    /// The number of the first record of a log that is created: what was before is in a snapshot.
    pub first: u64,
    /// Bytes set aside on the volume, so that what was begun before it filled up can be written.
    pub reserve_bytes: u64,
    /// The log is low when the volume has less than this free.
    pub min_free_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_record_bytes: 8 << 20,
            salt: 0,
            first: 1,
            reserve_bytes: 0,
            min_free_bytes: 0,
        }
    }
}
