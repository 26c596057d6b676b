//! Bugs on purpose: for the test that has to find each of them.
//!
//! Only the feature `planted` makes room for one. Without it [`Bug::is`] is false, known at compile
//! time, and nothing of this is in the program.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("the feature `planted` is for tests; no release is built with it");

/// A bug that can be planted, by what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// An owner fences nothing.
    SkipFence,
    /// An owner keeps a fence whose group was aborted.
    KeepFence,
    /// A decision is applied twice.
    DecideTwice,
    /// A credit is deposited twice.
    DepositTwice,
    /// A payment that cannot be made does not go back.
    LoseReturned,
    /// Credits that travelled with the lease of an aborted group are gone.
    LoseTravelling,
    /// A lease shows local writes after the cut.
    LeaseAfterCut,
    /// A group commits before every owner holds its part.
    CommitEarly,
    /// An owner keeps a part of another result.
    OtherPart,
    /// A result counts though a value in flight was of another result.
    OtherSource,
    /// A group commits before the groups whose values it used.
    CommitBeforeSource,
    /// A sender with a transaction across shards may run others locally.
    ForgetPin,
    /// A key is leased late to be written though it was used since the cut.
    LateAfterUse,
    /// A key is leased late though another group may write it.
    LateDespiteFence,
    /// A key is leased late though an earlier group of the round has changed it since the cut.
    LateDespiteCommit,
}

#[cfg(feature = "planted")]
impl Planted {
    pub const ALL: [Self; 15] = [
        Self::SkipFence,
        Self::KeepFence,
        Self::DecideTwice,
        Self::DepositTwice,
        Self::LoseReturned,
        Self::LoseTravelling,
        Self::LeaseAfterCut,
        Self::CommitEarly,
        Self::OtherPart,
        Self::OtherSource,
        Self::CommitBeforeSource,
        Self::ForgetPin,
        Self::LateAfterUse,
        Self::LateDespiteFence,
        Self::LateDespiteCommit,
    ];
}

#[cfg(feature = "planted")]
thread_local! {
    static EVERYWHERE: std::cell::Cell<Option<Planted>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in all state machines of this thread: for a simulation that has whole services on it.
#[cfg(feature = "planted")]
pub fn plant_everywhere(bug: Option<Planted>) {
    EVERYWHERE.set(bug);
}

/// The bug that a state machine has, if any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bug {
    #[cfg(feature = "planted")]
    planted: Option<Planted>,
}

impl Bug {
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, bug: Planted) {
        self.planted = Some(bug);
    }

    #[cfg(feature = "planted")]
    pub fn is(&self, bug: Planted) -> bool {
        self.planted == Some(bug) || EVERYWHERE.get() == Some(bug)
    }

    #[cfg(not(feature = "planted"))]
    pub const fn is(&self, _: Planted) -> bool {
        false
    }
}
