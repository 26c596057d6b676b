//! Each service answers alike wherever it stands: every suite runs twice, against a fresh actor in
//! this process and against a fresh one behind gRPC, and has to hear the same both times, word for
//! word.

mod beacon;
mod executor;
mod mempool;
mod router;
mod setup;
mod state;
