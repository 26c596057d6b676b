//! Transactions of a block that are run ahead of their turn, and what makes their results good.
//!
//! What a transaction found may not be what it finds at its turn. So each result comes with what it
//! depends on, and is good if that is what the kept transactions have left: then it is what running the
//! transaction would give. All else (who runs what and when, and what is found ahead of the turn)
//! decides how often results are good, and nothing else.

use atoll_types::{Basic, StateKey, StateValue, Write};

use super::{
    board::Board,
    memory::{FROM_BEFORE, Memory, SpotMap, Trace, Version, guessed, settled},
};

/// What an outcome depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dependencies {
    /// Values that have to be the very ones that were read.
    pub exact: Vec<Trace>,
    pub loose: Vec<Loose>,
}

/// An account may have any nonce and balance, so long as it is as empty as this one: it was only given
/// something, which is added to what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loose {
    pub trace: Trace,
    pub key: StateKey,
    /// `None`: the view did not have it.
    pub value: Option<StateValue>,
}

/// What came of a transaction that was run ahead.
pub(crate) trait Tried {
    fn dependencies(&self) -> &Dependencies;
    fn writes(&self) -> &[Write];
}

/// A result that is good, with the writes that are to other values than it says.
pub(crate) type Settled<R> = Result<(R, Vec<Write>), Broken>;

/// A block under way.
pub(crate) struct Ahead<R> {
    pub board: Board<R>,
    pub memory: Memory,
}

/// The lead's: the version of what the kept transactions have left under each spot. Where keys share
/// one, the newest of them, so that nothing passes for unchanged that is not.
#[derive(Default)]
pub(crate) struct Kept(SpotMap<Version>);

impl<R: Tried> Ahead<R> {
    /// `after` and `stride` as of [`Board::new`], `seed` as of [`Memory::new`].
    pub fn new(after: Vec<Option<u32>>, stride: usize, seed: u64) -> Self {
        // A payment writes two keys, a call some more.
        let writes = 4 * after.len();
        Self { board: Board::new(after, stride), memory: Memory::new(seed, writes) }
    }

    /// Takes the result of a transaction that was claimed.
    pub fn put(&self, index: usize, result: R) {
        self.board.put(index, result, |result| {
            for write in result.writes() {
                self.memory.put(guessed(index), write);
            }
        });
    }

    /// The result of the transaction at the lead's turn, if it was run ahead. `now` is what the kept ones have left. See
    /// [`Board::obtain`].
    pub fn settle(
        &self,
        index: usize,
        (kept, now): (&Kept, impl Fn(&StateKey) -> Option<StateValue>),
        ahead: impl FnMut(usize),
        patient: impl FnMut() -> bool,
    ) -> Option<Settled<R>> {
        let result = self.board.obtain(index, ahead, patient)?;
        let moved = kept.moved(&result, now);
        if moved.is_err() {
            self.retract(index, result.writes());
        }
        Some(moved.map(|moved| (result, moved)))
    }

    /// The lead passes over a transaction.
    pub fn skip(&self, index: usize) {
        if let Some(result) = self.board.skip(index) {
            self.retract(index, result.writes());
        }
    }

    /// Takes back what was put down for a transaction that is not kept, or not so.
    pub fn retract(&self, index: usize, writes: &[Write]) {
        self.memory.retract(index, writes.iter().map(|(key, _)| key));
    }

    /// Keeps writes of the transaction at the lead's turn that are not those of its result, or of one
    /// that was not run ahead.
    pub fn keep(&self, kept: &mut Kept, index: usize, writes: &[Write]) {
        for write in writes {
            kept.0.insert(self.memory.put(settled(index), write), settled(index));
        }
    }

    /// Keeps writes that stand there already.
    pub fn keep_result(&self, kept: &mut Kept, index: usize, writes: &[Write]) {
        for (key, _) in writes {
            kept.0.insert(self.memory.spot(key), guessed(index));
        }
    }

    /// What is under a key now was written by nobody that anyone can read.
    pub fn forget(&self, kept: &mut Kept, key: &StateKey) {
        kept.0.insert(self.memory.spot(key), Version::MAX);
    }

    /// Keeps what was written before the first transaction.
    pub fn begin(&self, kept: &mut Kept, writes: impl Iterator<Item = Write>) {
        for write in writes {
            kept.0.insert(self.memory.put(FROM_BEFORE, &write), FROM_BEFORE);
        }
    }
}

/// A result depends on what is otherwise now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

impl Kept {
    fn has(&self, trace: &Trace) -> bool {
        self.0.get(&trace.spot).copied().unwrap_or(0) == trace.version
    }

    /// Whether a result is good, and which of its writes are to other values on what is there now.
    fn moved(
        &self,
        result: &impl Tried,
        now: impl Fn(&StateKey) -> Option<StateValue>,
    ) -> Result<Vec<Write>, Broken> {
        let Dependencies { exact, loose } = result.dependencies();
        if !exact.iter().all(|trace| self.has(trace)) {
            return Err(Broken);
        }
        let mut moved = Vec::new();
        for Loose { key, value, .. } in loose.iter().filter(|loose| !self.has(&loose.trace)) {
            let found = now(key);
            let (Some(StateValue::Basic(was)), Some(StateValue::Basic(is))) = (value, found) else {
                return Err(Broken);
            };
            if is_empty(was) != is_empty(&is) {
                return Err(Broken);
            }
            let at = result.writes().binary_search_by_key(key, |(written, _)| *written);
            let Some((_, written)) = at.ok().and_then(|at| result.writes().get(at)) else {
                continue;
            };
            // It has been given something, and nothing else was done to it.
            let given = written.basic().balance.checked_sub(was.balance).ok_or(Broken)?;
            let balance = is.balance.checked_add(given).ok_or(Broken)?;
            moved.push((*key, StateValue::Basic(Basic { nonce: is.nonce, balance })));
        }
        Ok(moved)
    }
}

fn is_empty(basic: &Basic) -> bool {
    basic.nonce == 0 && basic.balance.is_zero()
}
