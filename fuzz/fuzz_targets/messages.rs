//! Every request and reply between processes, from its bytes into its domain type. The first byte says
//! which. What is taken has one meaning: encoded again, it is taken again and comes out the same.
#![no_main]

use atoll_api::{beacon::*, executor::*, mempool::*, router::*, state::*};
use atoll_fabric::Rpc;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

type Try = fn(&[u8]);

fn request<M: Rpc>(bytes: &[u8]) {
    let Ok(wire) = M::Wire::decode(bytes) else { return };
    let Ok(message) = M::from_wire(wire) else { return };
    let encoded = message.into_wire().encode_to_vec();
    let wire = M::Wire::decode(&encoded[..]).expect("it was just encoded");
    let again = M::from_wire(wire).unwrap_or_else(|error| panic!("{}: {error}", M::PATH));
    assert_eq!(again.into_wire().encode_to_vec(), encoded, "{}", M::PATH);
}

fn reply<M: Rpc>(bytes: &[u8]) {
    let Ok(wire) = M::WireReply::decode(bytes) else { return };
    let Ok(reply) = M::reply_from_wire(wire) else { return };
    let encoded = M::reply_into_wire(reply).encode_to_vec();
    let wire = M::WireReply::decode(&encoded[..]).expect("it was just encoded");
    let again = M::reply_from_wire(wire).unwrap_or_else(|error| panic!("{}: {error}", M::PATH));
    assert_eq!(M::reply_into_wire(again).encode_to_vec(), encoded, "{}", M::PATH);
}

macro_rules! all {
    ($($message:ident)*) => {
        const ALL: &[Try] = &[$(request::<$message>, reply::<$message>),*];
    };
}

all! {
    Submit Take Report Status
    Predict Debit RunGroups ExecutorStats
    Escalate Deliver Fetch RouterStats
    Announce Blocks Head BeaconStats TakeBeaconSnapshot ReadBeaconSnapshot
    Read Prove Append Cut Outbox Share Withdraw Quarantine StoreResults AcceptParts ReceiveCredits
    Settle Recall LeaseLate PutCodes Watch Sync Lookup Feed TellDropped TakeSnapshot ReadSnapshot
}

fuzz_target!(|bytes: &[u8]| {
    if let Some((which, bytes)) = bytes.split_first() {
        ALL[usize::from(*which) % ALL.len()](bytes);
    }
});
