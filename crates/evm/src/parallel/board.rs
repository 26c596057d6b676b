//! Who runs which transaction of a block. One thread leads: it takes the transactions in order and
//! is the only one to say what comes of them. Others run ahead of it.

use crate::sync::{
    AtomicBool, AtomicU8, AtomicUsize, Mutex, Ordering, PoisonError, spin_loop, yield_now,
};

/// How far from the lead others may run: what they find is the older the further they are.
const WINDOW: usize = 32;

/// Nobody has begun it.
const OPEN: u8 = 0;
/// Somebody runs it ahead of its turn.
const BUSY: u8 = 1;
/// It has run, and its writes are being put down.
const WRITING: u8 = 2;
/// Its result waits for the lead.
const DONE: u8 = 3;
/// The lead has it.
const TAKEN: u8 = 4;

pub(crate) struct Board<R> {
    places: Box<[Place<R>]>,
    /// For each transaction the last one before it with which it is expected to conflict.
    after: Box<[Option<u32>]>,
    /// Every so many transactions one is best left to the lead, which runs it for less; 0: none.
    stride: usize,
    /// The one that the lead is at.
    front: AtomicUsize,
    closed: AtomicBool,
    /// Threads that are here to help.
    helpers: AtomicUsize,
}

/// A transaction's: what one thread does about it disturbs no other that is about its neighbours.
#[repr(align(64))]
struct Place<R> {
    state: AtomicU8,
    result: Mutex<Option<R>>,
}

impl<R> Board<R> {
    /// `after` has an entry for each transaction.
    pub fn new(after: Vec<Option<u32>>, stride: usize) -> Self {
        let open = || Place { state: AtomicU8::new(OPEN), result: Mutex::new(None) };
        Self {
            places: after.iter().map(|_| open()).collect(),
            after: after.into(),
            stride,
            front: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            helpers: AtomicUsize::new(0),
        }
    }

    /// The lead comes to a transaction: those before it are what they will be.
    pub fn advance(&self, index: usize) {
        self.front.store(index, Ordering::Release);
    }

    /// The lead passes over a transaction.
    pub fn skip(&self, index: usize) -> Option<R> {
        match self.places[index].state.swap(TAKEN, Ordering::AcqRel) {
            DONE => self.result(index),
            // Its writes are taken for those of one that is kept, until somebody finds otherwise.
            _ => None,
        }
    }

    /// A transaction to be run ahead of its turn, if there is one that is worth it.
    pub fn claim(&self) -> Option<usize> {
        let front = self.front.load(Ordering::Acquire);
        let end = self.places.len().min(front + WINDOW);
        let mut all = front..end;
        if self.stride == 0 {
            return all.find(|index| self.try_claim(*index, front));
        }
        let mut others = all.clone().filter(|index| !index.is_multiple_of(self.stride));
        others
            .find(|index| self.try_claim(*index, front))
            // The lead must be busy.
            .or_else(|| (front + WINDOW / 4..end).find(|index| self.try_claim(*index, front)))
    }

    fn try_claim(&self, index: usize, front: usize) -> bool {
        let ready = |after: u32| {
            let after = after as usize;
            after < front || self.places[after].state.load(Ordering::Acquire) == DONE
        };
        let state = &self.places[index].state;
        state.load(Ordering::Relaxed) == OPEN
            && self.after[index].is_none_or(ready)
            && state.compare_exchange(OPEN, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes the result of a transaction that was claimed. `publish` puts its writes down, if the
    /// lead has not gone on without it.
    pub fn put(&self, index: usize, result: R, publish: impl FnOnce(&R)) {
        let state = &self.places[index].state;
        if state.compare_exchange(BUSY, WRITING, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        publish(&result);
        *self.places[index].result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        state.store(DONE, Ordering::Release);
    }

    /// For the lead: the result of a transaction that was run ahead; `None` if the lead is to run it
    /// itself. While another runs it the lead runs others by `ahead`, or waits as long as `patient`
    /// says so.
    pub fn obtain(
        &self,
        index: usize,
        mut ahead: impl FnMut(usize),
        mut patient: impl FnMut() -> bool,
    ) -> Option<R> {
        let state = &self.places[index].state;
        let take =
            |from| state.compare_exchange(from, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok();
        loop {
            match state.load(Ordering::Acquire) {
                DONE => {
                    state.store(TAKEN, Ordering::Relaxed);
                    return self.result(index);
                }
                OPEN if take(OPEN) => return None,
                BUSY => match self.claim() {
                    Some(other) => ahead(other),
                    None if patient() => spin_loop(),
                    None if take(BUSY) => return None,
                    None => {}
                },
                TAKEN => return None,
                // Whoever writes it down does so in a moment, if it is running.
                _ => yield_now(),
            }
        }
    }

    /// For a lead that runs nothing but by [`Self::obtain`]: waits a little for another to claim a
    /// transaction at its turn. True if it is claimed for the lead.
    pub fn wait_for_claim(&self, index: usize, looks: usize) -> bool {
        let state = &self.places[index].state;
        for _ in 0..looks {
            if state.load(Ordering::Relaxed) != OPEN {
                return false;
            }
            yield_now();
        }
        state.compare_exchange(OPEN, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Leaves a transaction to the lead.
    pub fn reserve(&self, index: usize) {
        self.places[index].state.store(TAKEN, Ordering::Relaxed);
    }

    fn result(&self, index: usize) -> Option<R> {
        self.places[index].result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// No more help is wanted.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether nobody helps who could.
    pub fn is_alone(&self) -> bool {
        self.helpers.load(Ordering::Relaxed) == 0
    }

    /// Runs transactions ahead of the lead until there are none, or too long nothing can be done.
    pub fn help(&self, mut ahead: impl FnMut(usize), mut patient: impl FnMut(usize) -> bool) {
        self.helpers.fetch_add(1, Ordering::Relaxed);
        let mut waits = 0;
        while !self.closed.load(Ordering::Acquire) {
            match self.claim() {
                Some(index) => {
                    ahead(index);
                    waits = 0;
                }
                None if self.front.load(Ordering::Relaxed) + 1 >= self.places.len() => break,
                None => {
                    waits += 1;
                    if !patient(waits) {
                        break;
                    }
                }
            }
        }
        self.helpers.fetch_sub(1, Ordering::Relaxed);
    }
}
