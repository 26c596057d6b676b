//! What goes over the wire is what comes out, and bytes that are damaged do no harm.

use std::fmt::Debug;

use atoll_api::mempool::Submit;
use atoll_fabric::{Malformed, Rpc};
use atoll_types::Tx;
use prost::Message;
use rand::rngs::StdRng;

use crate::{damage, every_request, random::Random, seeded};

const ROUNDS: usize = 300;

#[test]
fn requests_and_replies_survive_the_round_trip() {
    let mut rng = seeded();
    for _ in 0..ROUNDS {
        every_request!(survives(&mut rng));
    }
}

fn survives<M: Rpc<Reply: Random + Debug> + Random + Debug>(rng: &mut StdRng) {
    let path = M::PATH;
    let request = M::random(rng);
    let before = format!("{request:?}");
    let bytes = request.into_wire().encode_to_vec();
    let request = M::Wire::decode(&bytes[..]).expect("own encoding");
    let request = M::from_wire(request).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(before, format!("{request:?}"), "{path}");
    assert_eq!(bytes, request.into_wire().encode_to_vec(), "{path}");

    let reply = M::Reply::random(rng);
    let before = format!("{reply:?}");
    let bytes = M::reply_into_wire(reply).encode_to_vec();
    let reply = M::WireReply::decode(&bytes[..]).expect("own encoding");
    let reply = M::reply_from_wire(reply).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(before, format!("{reply:?}"), "{path}");
    assert_eq!(bytes, M::reply_into_wire(reply).encode_to_vec(), "{path}");
}

/// What the text of a transaction, by which the test above compares, does not show.
#[test]
fn a_transaction_keeps_its_bytes_sender_and_trace() {
    let mut rng = seeded();
    for _ in 0..ROUNDS {
        let tx = Tx::random(&mut rng);
        let wire = Submit { txs: vec![tx.clone()] }.into_wire();
        let back = Submit::from_wire(wire).expect("own encoding").txs.remove(0);
        assert_eq!(back.raw(), tx.raw());
        assert_eq!(back.sender(), tx.sender());
        assert_eq!(back.trace(), tx.trace());
        assert_eq!(back.envelope(), tx.envelope());
    }
}

#[test]
fn damaged_bytes_are_refused_or_mean_something_else() {
    let mut rng = seeded();
    let mut tally = Tally::default();
    for _ in 0..ROUNDS {
        every_request!(is_harmless(&mut rng, &mut tally));
    }
    println!("{tally:?}");
    let Tally { no_protobuf, malformed, accepted } = tally;
    for count in [no_protobuf, malformed, accepted] {
        assert!(count > 5 * ROUNDS, "the damage is one-sided: {tally:?}");
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    no_protobuf: usize,
    malformed: usize,
    accepted: usize,
}

fn is_harmless<M: Rpc<Reply: Random + Debug> + Random + Debug>(
    rng: &mut StdRng,
    tally: &mut Tally,
) {
    let request = M::random(rng).into_wire().encode_to_vec();
    for bytes in [damage::bytes(request.clone(), rng), damage::field(&request, rng)] {
        take(&bytes, tally, M::from_wire, M::into_wire);
    }
    let reply = M::reply_into_wire(M::Reply::random(rng)).encode_to_vec();
    for bytes in [damage::bytes(reply.clone(), rng), damage::field(&reply, rng)] {
        take(&bytes, tally, M::reply_from_wire, M::reply_into_wire);
    }
}

/// Decodes; what is accepted has to be a value like any other.
fn take<T: Debug, W: Message + Default>(
    bytes: &[u8],
    tally: &mut Tally,
    from_wire: fn(W) -> Result<T, Malformed>,
    into_wire: fn(T) -> W,
) {
    let Ok(wire) = W::decode(bytes) else {
        tally.no_protobuf += 1;
        return;
    };
    match from_wire(wire) {
        Err(Malformed { field, expected }) => {
            tally.malformed += 1;
            assert!(!field.is_empty() && !field.starts_with('.'), "{field}");
            assert!(!expected.is_empty(), "{field}");
        }
        Ok(value) => {
            tally.accepted += 1;
            let before = format!("{value:?}");
            let again = from_wire(into_wire(value)).expect("own encoding");
            assert_eq!(before, format!("{again:?}"));
        }
    }
}
