//! Errors travel as JSON, and no error is a success.

use std::fmt::Debug;

use atoll_api::{
    beacon::BeaconError, executor::ExecutorError, mempool::MempoolError, router::RouterError,
    state::StateError,
};
use atoll_fabric::{Fault, RpcError};
use rand::rngs::StdRng;
use tonic::Code;

use crate::{random::Random, seeded};

#[test]
fn errors_survive_the_round_trip() {
    let mut rng = seeded();
    for _ in 0..300 {
        survives::<MempoolError>(&mut rng);
        survives::<ExecutorError>(&mut rng);
        survives::<StateError>(&mut rng);
        survives::<RouterError>(&mut rng);
        survives::<BeaconError>(&mut rng);
    }
}

fn survives<E: RpcError + Random + Debug + PartialEq>(rng: &mut StdRng) {
    let error = E::random(rng);
    assert!(!matches!(error.code(), Code::Ok | Code::Unknown));
    let json = serde_json::to_vec(&error).expect("errors are JSON");
    assert_eq!(serde_json::from_slice::<E>(&json).ok(), Some(error));
    let fault = Fault::DeadlineExceeded;
    assert_eq!(E::from(fault.clone()).code(), fault.code());
}
