//! Generated protobuf messages, gRPC clients and servers of `proto/atoll/v1`. Nothing else.

/// Package `atoll.v1`.
#[allow(clippy::all, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("atoll.v1");
}

/// Every file of the package, encoded, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/atoll.bin"));
