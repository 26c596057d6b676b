//! A small service over every transport.

mod grpc;
mod panic;
mod probe;
mod tls;
mod transports;
