//! One trace through every stage of one transaction across shards. In a test process of its own: the
//! tracer is the process's.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall as _;
use atoll_tests::{
    PATIENCE,
    contracts::{Hop, hop},
    here::{Here, Shape},
    wallet::{Plan, Wallet},
};
use atoll_types::TraceContext;
use atoll_wire::v1::SubmitTransactionRequest;
use opentelemetry::{
    global,
    trace::{SpanId, TraceId},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::time::{Duration, Instant, sleep};

/// Keeps every span that has ended.
#[derive(Clone, Debug, Default)]
struct Spans(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Spans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(batch);
        Ok(())
    }
}

impl Spans {
    fn of(&self, trace: TraceId) -> Vec<SpanData> {
        let spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.iter().filter(|span| span.span_context.trace_id() == trace).cloned().collect()
    }
}

/// A stage, and the shard that it ran on.
type Stage = (String, i64);

fn stage(span: &SpanData) -> Stage {
    let shard = span.attributes.iter().find(|pair| pair.key.as_str() == "atoll.shard");
    match shard.map(|pair| &pair.value) {
        Some(opentelemetry::Value::I64(shard)) => (span.name.to_string(), *shard),
        other => panic!("{} has shard {other:?}", span.name),
    }
}

const SHARDS: u16 = 3;

/// Everything that has to be in the trace of a call over all shards by somebody of shard `home`.
fn expected(home: i64) -> BTreeSet<Stage> {
    let at_home = ["submit", "admit", "run", "predict", "share"].map(|name| (name, home));
    let everywhere = ["lease", "apply"].into_iter();
    let everywhere = everywhere.flat_map(|name| (0..i64::from(SHARDS)).map(move |at| (name, at)));
    at_home.into_iter().chain(everywhere).map(|(name, at)| (name.to_owned(), at)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_across_shards_is_one_trace() {
    let spans = Spans::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
    global::set_tracer_provider(provider);
    let mut wallet = Wallet::seeded("trace", 0, 0).expect("a key");
    let links: Vec<Address> =
        (0..u64::from(SHARDS)).map(|nonce| wallet.address().create(nonce)).collect();
    let mut shape = Shape::new(SHARDS);
    shape.balances.insert(wallet.address(), U256::from(10).pow(U256::from(20)));
    shape.placement = links.iter().copied().zip(0..).collect();
    let here = Here::start(&shape).await.expect("a cluster");
    let mut next = Address::ZERO;
    for link in links {
        let code = hop(next).expect("an artefact");
        let deployment = wallet.sign(&Plan::create(code)).expect("a signature");
        here.api.carry_out(&[deployment]).await.expect("it is deployed");
        next = link;
    }
    assert!(spans.0.lock().expect("no panic").is_empty(), "nothing was sampled yet");

    let call = Hop::hopCall { amount: U256::ONE, failAtEnd: false };
    let tx = wallet.sign(&Plan::call(next, call.abi_encode())).expect("a signature");
    let client = TraceContext { trace_id: 0xa11_0000_0000_0000_0000_0001, span_id: 0xc11e_0001 };
    let transaction = tx.raw.0.clone();
    let mut request = tonic::Request::new(SubmitTransactionRequest { transaction });
    request.metadata_mut().insert("traceparent", client.header().parse().expect("text"));
    here.api.client.clone().submit_transaction(request).await.expect("it is taken");
    let receipt = here.api.end_of(tx.hash).await.expect("it is carried out");
    assert!(receipt.status && receipt.shards == [0, 1, 2], "{receipt:?}");

    let trace = TraceId::from(client.trace_id);
    let home = i64::from(here.cluster.placement.owner(&wallet.address()).0);
    let expected = expected(home);
    // The last owner may apply it after the first one has told the client.
    let deadline = Instant::now() + PATIENCE;
    let spans = loop {
        let spans = spans.of(trace);
        let stages = spans.iter().map(stage).collect::<BTreeSet<_>>();
        if expected.is_subset(&stages) {
            break spans;
        }
        let missing: Vec<_> = expected.difference(&stages).collect();
        assert!(Instant::now() < deadline, "{missing:?} are not in {stages:?}");
        sleep(Duration::from_millis(20)).await;
    };
    // One tree: each stage is below the gateway's, and that one below the client's.
    let ids: BTreeSet<_> =
        spans.iter().map(|span| span.span_context.span_id().to_bytes()).collect();
    for span in &spans {
        let parent = span.parent_span_id;
        if span.name == "submit" {
            assert_eq!(parent, SpanId::from(client.span_id));
        } else {
            assert!(ids.contains(&parent.to_bytes()), "{} has no parent here", span.name);
        }
    }
    let runs: BTreeSet<_> = spans.iter().map(stage).filter(|(name, _)| name == "run").collect();
    assert!(!runs.is_empty() && runs.len() <= 2, "run once, after a try at home: {runs:?}");
    here.stop().await;
}
