//! Runs Ethereum transactions on state that is given key by key, and says which keys it used.
//!
//! An [`Executor`] runs one transaction at a time on a [`StateView`]. It changes nothing: what a
//! transaction changes stands in its [`Effects`], and an [`Overlay`] puts effects on top of a view
//! for the transactions after it. Results are those of plain revm under the same [`Rules`], which
//! are Osaka's unless others are given, but for two things: the priority fee is not paid to the
//! coinbase but handed out in [`Effects::fee`], unless asked for, and a key that the view does not
//! have ends the attempt instead of failing it.
//!
//! # What counts as used
//!
//! *Used* is what the outcome could depend on, not what revm loads. Over-approximated, which costs
//! a lease and never correctness:
//!
//! - `Code(a)` whenever revm loads account `a`, so also for BALANCE and for payments to `a`;
//! - `Basic(a)` for EXTCODEHASH, even of an account with code; and for a CALL with value that fails
//!   before it reaches `a`;
//! - slots and accounts touched in frames that are reverted.
//!
//! `Basic` of a contract that is called without value, or whose code is only read, is not used.
//! Neither is `Code` of a precompile: no transaction can put code there, and a genesis must not. An
//! entry of an access list is used only if the execution gets there.
//!
//! Writes are net changes: a key that was written and is back at its old value is a read. Only the
//! coinbase's `Basic` counts as written by whoever uses it: a group that has it among its fenced keys
//! pays its fees at once ([`Fees`]), so that they can be seen.

mod ahead;
mod block;
mod call;
mod code;
mod db;
mod effects;
mod env;
mod executor;
mod group;
mod handler;
mod invalid;
mod journal;
mod overlay;
mod parallel;
mod rules;
mod run;
mod sync;
mod trace;
mod view;

pub use ahead::{Ahead, Chain, Footing};
pub use block::{BlockExecutor, Changes, Fees, Hint, Mode, Sequential};
pub use call::{CALL_GAS_CAP, CallEnd, CallOutcome, CallRequest, CallResult, CallRun};
pub use code::{Bytecode, CodeCache, bytecode};
pub use db::EMPTY_ACCOUNT;
pub use env::TX_GAS_LIMIT_CAP;
pub use executor::Executor;
pub use group::{Group, GroupError, Source};
pub use invalid::Invalid;
pub use overlay::Overlay;
pub use parallel::{Clock, Crew, Helpers, Job, Nobody, Parallel, Parallelism, Policy};
pub use rules::{Blobs, Fork, Rules};
pub use run::{Effects, Outcome, Run};
pub use trace::{
    GethDebugTracingCallOptions, GethDebugTracingOptions, GethTrace, TraceOutcome, TracePlace,
    TraceRun, Tracer, TracerError,
};
pub use view::{Empty, OnMissing, StateView};
