//! Traces of single transactions through all their stages, wherever those run; and [`metrics`].
//!
//! A transaction is handled in batches, so its trace context travels with it rather than with the
//! call that carries the batch. Each stage is a span under the client's submit. The process
//! installs the tracer; without one, and for transactions that are not sampled, this does nothing.

pub mod metrics;

use std::sync::OnceLock;

use atoll_types::{ShardId, TraceContext, Tx};
use opentelemetry::{
    Context, KeyValue,
    global::{self, BoxedSpan},
    trace::{
        Span, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState,
        Tracer,
    },
};

/// Of transactions whose clients ask for no trace, the share that gets one: from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Of all, when they are submitted.
    pub all: f64,
    /// Of those that turn out to cross shards.
    pub crossing: f64,
}

static RATES: OnceLock<Rates> = OnceLock::new();

/// Has this process begin traces by itself. Only the first call has an effect.
pub fn begin_traces(rates: Rates) {
    let _ = RATES.set(rates);
}

/// Whether a transaction is in a share; every process finds the same.
fn is_chosen(tx: &Tx, rate: f64) -> bool {
    let [a, b, c, d, ..] = tx.hash().0;
    rate > 0.0 && f64::from(u32::from_be_bytes([a, b, c, d])) < rate * (f64::from(u32::MAX) + 1.0)
}

/// One stage of one transaction, from when it is made to when it is dropped.
pub struct Stage(Option<BoxedSpan>);

impl Stage {
    /// A stage of a transaction on a shard; nothing if the transaction is not sampled.
    pub fn enter(name: &'static str, shard: ShardId, tx: &Tx) -> Self {
        Self::under(name, tx.trace(), || attributes(name, shard, tx))
    }

    /// The first stage of a transaction: under its client's, or the root of a trace that begins here.
    pub fn submit(shard: ShardId, tx: &Tx) -> Self {
        Self::first("submit", shard, tx, |rates| rates.all)
    }

    /// The stage in which a transaction is found to cross shards; nothing if it has a trace already.
    pub fn escalate(shard: ShardId, tx: &Tx) -> Self {
        match tx.trace() {
            Some(_) => Self(None),
            None => Self::first("escalate", shard, tx, |rates| rates.crossing),
        }
    }

    fn first(name: &'static str, shard: ShardId, tx: &Tx, rate: fn(&Rates) -> f64) -> Self {
        if tx.trace().is_some() {
            return Self::enter(name, shard, tx);
        }
        let chosen = RATES.get().is_some_and(|rates| is_chosen(tx, rate(rates)));
        Self(chosen.then(|| {
            let tracer = global::tracer("atoll");
            let builder = tracer.span_builder(name).with_kind(SpanKind::Internal);
            let builder = builder.with_attributes(attributes(name, shard, tx));
            tracer.build_with_context(builder, &Context::new())
        }))
    }

    /// A stage under any position of a trace.
    pub fn under(
        name: &'static str,
        parent: Option<TraceContext>,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Self {
        Self(parent.map(|parent| {
            let tracer = global::tracer("atoll");
            let builder = tracer.span_builder(name).with_kind(SpanKind::Internal);
            let remote = Context::new().with_remote_span_context(remote(parent));
            tracer.build_with_context(builder.with_attributes(attributes()), &remote)
        }))
    }

    /// This stage, and the transaction with its later stages under it.
    pub fn over(self, tx: Tx) -> (Self, Tx) {
        match self.context() {
            Some(context) => (self, tx.with_trace(Some(context))),
            None => (self, tx),
        }
    }

    /// The position of this stage, for what happens under it.
    pub fn context(&self) -> Option<TraceContext> {
        let context = self.0.as_ref()?.span_context();
        context.is_sampled().then(|| TraceContext {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(span) = &mut self.0 {
            span.end();
        }
    }
}

fn attributes(name: &'static str, shard: ShardId, tx: &Tx) -> Vec<KeyValue> {
    vec![
        KeyValue::new("atoll.stage", name),
        KeyValue::new("atoll.shard", i64::from(shard.0)),
        KeyValue::new("atoll.tx", tx.hash().to_string()),
    ]
}

/// One stage of many transactions at once.
pub fn stages<'a>(
    name: &'static str,
    shard: ShardId,
    txs: impl IntoIterator<Item = &'a Tx>,
) -> Vec<Stage> {
    let sampled = txs.into_iter().filter(|tx| tx.trace().is_some());
    sampled.map(|tx| Stage::enter(name, shard, tx)).collect()
}

fn remote(context: TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id.to_be_bytes()),
        SpanId::from_bytes(context.span_id.to_be_bytes()),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    )
}
