//! What anybody can send to a real cluster's public API: each gets a code and a reason, and the
//! cluster carries out the next good transaction.

mod budget;
mod requests;
mod setup;
mod transactions;
mod transport;
