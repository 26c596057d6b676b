//! Tests of the commands: what is typed, what is sent to a gateway, what is shown.

mod amounts;
mod encoding;
mod fake;
mod flow;
mod nonsense;
mod proofs;
mod shapes;
mod targets;
mod typed;
