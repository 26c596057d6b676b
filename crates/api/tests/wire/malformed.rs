//! What is refused, and the field that is blamed.

use atoll_api::{
    convert::{MAX_CODE_BYTES, MAX_ITEMS},
    executor::Predict,
    mempool::{Report, Submit},
    router::{Deliver, Fetch},
    state::{Append, Cut, Feed, Lookup, PutCodes, Read, Settle, Share},
};
use atoll_fabric::{Malformed, Rpc};
use atoll_types::MAX_TX_BYTES;
use atoll_wire::v1 as wire;
use bytes::Bytes;

fn blamed<T>(result: Result<T, Malformed>) -> String {
    result.map(drop).expect_err("is malformed").field
}

fn basic_key(first: u8) -> wire::StateKey {
    let mut address = [0; 20];
    address[0] = first;
    wire::StateKey { key: Some(wire::state_key::Key::Basic(Bytes::copy_from_slice(&address))) }
}

#[test]
fn lengths_are_checked() {
    let short = wire::StateKey {
        key: Some(wire::state_key::Key::Slot(wire::SlotKey {
            address: Bytes::from_static(&[1; 19]),
            incarnation: 0,
            slot: Bytes::new(),
        })),
    };
    let read = wire::ReadRequest { keys: vec![basic_key(1), short], ..Default::default() };
    assert_eq!(blamed(Read::from_wire(read)), "keys[1].slot.address");

    let read =
        wire::ReadRequest { codes: vec![Bytes::from_static(&[0; 33])], ..Default::default() };
    assert_eq!(blamed(Read::from_wire(read)), "codes[0]");

    let reply = wire::ReadResponse {
        values: vec![wire::StateValue {
            value: Some(wire::state_value::Value::Slot(Bytes::from_static(&[1; 33]))),
        }],
        ..Default::default()
    };
    assert_eq!(blamed(Read::reply_from_wire(reply)), "values[0].slot");

    let codes = |length| wire::PutCodesRequest { codes: vec![vec![0; length].into()] };
    assert!(PutCodes::from_wire(codes(MAX_CODE_BYTES)).is_ok());
    let too_long = codes(MAX_CODE_BYTES + 1);
    assert_eq!(blamed(PutCodes::from_wire(too_long)), "codes[0]");

    let reply = wire::FetchResponse {
        codes: vec![wire::CodeEntry { code: Some(vec![0; MAX_CODE_BYTES + 1].into()) }],
        ..Default::default()
    };
    assert_eq!(blamed(Fetch::reply_from_wire(reply)), "codes[0].code");
}

#[test]
fn lists_have_a_longest_length() {
    let lookup = |length| wire::LookupRequest { txs: vec![Bytes::from_static(&[7; 32]); length] };
    assert!(Lookup::from_wire(lookup(MAX_ITEMS)).is_ok());
    assert_eq!(blamed(Lookup::from_wire(lookup(MAX_ITEMS + 1))), "txs");
}

#[test]
fn what_is_required_has_to_be_there() {
    let append = wire::AppendRequest { block: None, reads: Vec::new() };
    assert_eq!(blamed(Append::from_wire(append)), "block");

    let cut = wire::CutRequest {
        block: Some(wire::BeaconBlock {
            env: Some(wire::BlockEnv {
                randomness: Bytes::from_static(&[0; 32]),
                coinbase: Bytes::from_static(&[0; 20]),
                ..Default::default()
            }),
            parent: Bytes::from_static(&[0; 32]),
            decisions: vec![wire::Decision {
                group: Some(wire::GroupId::default()),
                verdict: None,
            }],
            ..Default::default()
        }),
    };
    let field = blamed(Cut::from_wire(cut));
    assert_eq!(field, "block.decisions[0].verdict");

    let report = wire::ReportRequest {
        ends: vec![wire::TxEnd { tx: Bytes::from_static(&[0; 32]), end: None }],
    };
    assert_eq!(blamed(Report::from_wire(report)), "ends[0].end");
}

#[test]
fn a_refusal_of_an_unknown_kind_is_not_taken_for_consent() {
    let reply = wire::ShareResponse {
        refused: vec![wire::Acceptance { refusal: Some(wire::Refusal { rule: None }) }],
    };
    let field = blamed(Share::reply_from_wire(reply));
    assert_eq!(field, "refused[0].refusal.rule");

    let reply = wire::ShareResponse {
        refused: vec![wire::Acceptance {
            refusal: Some(wire::Refusal {
                rule: Some(wire::refusal::Rule::OutsideFence(wire::refusal::OutsideFence {
                    group: Some(wire::GroupId::default()),
                    key: Some(wire::StateKey { key: None }),
                })),
            }),
        }],
    };
    let field = blamed(Share::reply_from_wire(reply));
    assert_eq!(field, "refused[0].refusal.outside_fence.key.key");
}

#[test]
fn a_value_is_of_the_kind_that_its_key_holds() {
    let predict = wire::PredictRequest {
        known: vec![wire::Write {
            key: Some(basic_key(1)),
            value: Some(wire::StateValue {
                value: Some(wire::state_value::Value::Slot(Bytes::new())),
            }),
        }],
        ..Default::default()
    };
    assert_eq!(blamed(Predict::from_wire(predict)), "known[0].value");
}

#[test]
fn key_sets_are_sorted_and_disjoint() {
    let predicted = |reads: &[u8], writes: &[u8]| {
        let keys = |firsts: &[u8]| firsts.iter().copied().map(basic_key).collect();
        let uses = wire::prediction::Uses {
            keys: Some(wire::KeySet { reads: keys(reads), writes: keys(writes) }),
            credit: false,
        };
        let reply = wire::PredictResponse {
            predictions: vec![wire::Prediction {
                prediction: Some(wire::prediction::Prediction::Uses(uses)),
            }],
        };
        Predict::reply_from_wire(reply)
    };
    assert!(predicted(&[1, 3], &[2, 4]).is_ok());
    let path = "predictions[0].uses.keys";
    for (reads, writes, field) in
        [(&[3, 1][..], &[][..], "reads"), (&[], &[2, 2], "writes"), (&[1, 2], &[2], "reads")]
    {
        assert_eq!(blamed(predicted(reads, writes)), format!("{path}.{field}"));
    }
}

#[test]
fn transactions_have_to_decode() {
    let submit = |raw: Bytes, sender: &'static [u8]| {
        Submit::from_wire(wire::MempoolServiceSubmitRequest {
            txs: vec![wire::Transaction {
                raw,
                sender: Bytes::from_static(sender),
                traceparent: "nonsense".into(),
            }],
        })
    };
    let empty = submit(Bytes::new(), &[1; 20]);
    assert_eq!(blamed(empty), "txs[0].raw");
    let long = submit(vec![0xc0; MAX_TX_BYTES + 1].into(), &[1; 20]);
    assert_eq!(blamed(long), "txs[0].raw");
    assert_eq!(blamed(submit(Bytes::new(), &[])), "txs[0].sender");
}

#[test]
fn numbers_are_in_range() {
    let deliver = wire::DeliverRequest { to: 65_536, ..Default::default() };
    assert_eq!(blamed(Deliver::from_wire(deliver)), "to");

    let settle = wire::SettleRequest {
        settlement: Some(wire::Settlement { by: u32::MAX, ..Default::default() }),
    };
    assert_eq!(blamed(Settle::from_wire(settle)), "settlement.by");
}

#[test]
fn enum_values_are_known() {
    let hash = Bytes::from_static(&[0; 32]);
    let receipt = wire::Receipt {
        tx: hash.clone(),
        sender: Bytes::from_static(&[0; 20]),
        executed: Some(wire::Executed::default()),
        kind: Some(wire::ReceiptKind {
            kind: Some(wire::receipt_kind::Kind::Local(wire::receipt_kind::Local {})),
        }),
        ..Default::default()
    };
    let reply = |finality, topics| {
        let mut receipt = receipt.clone();
        receipt.executed = Some(wire::Executed {
            logs: vec![wire::Log {
                address: Bytes::from_static(&[0; 20]),
                topics: vec![hash.clone(); topics],
                data: Bytes::new(),
            }],
            ..Default::default()
        });
        let event = wire::ReceiptEvent { receipt: Some(receipt), finality, cut: 1 };
        Feed::reply_from_wire(wire::FeedResponse {
            events: vec![wire::FeedEvent { event: Some(wire::feed_event::Event::Receipt(event)) }],
            ..Default::default()
        })
    };
    assert!(reply(wire::Finality::Final.into(), 4).is_ok());
    for finality in [0, 3, -1] {
        let field = blamed(reply(finality, 0));
        assert_eq!(field, "events[0].receipt.finality");
    }
    let field = blamed(reply(1, 5));
    assert_eq!(field, "events[0].receipt.receipt.executed.logs[0].topics");
}
