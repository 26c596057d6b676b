//! Traces of single transactions through all their stages, wherever those run.
//!
//! A transaction is handled in batches, so its trace context travels with it rather than with the
//! call that carries the batch. Each stage is a span under the client's submit. The process
//! installs the tracer; without one, and for transactions that are not sampled, this does nothing.

use atoll_types::{ShardId, TraceContext, Tx};
use opentelemetry::{
    Context, KeyValue,
    global::{self, BoxedSpan},
    trace::{
        Span, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState,
        Tracer,
    },
};

/// One stage of one transaction, from when it is made to when it is dropped.
pub struct Stage(Option<BoxedSpan>);

impl Stage {
    /// A stage of a transaction on a shard; nothing if the transaction is not sampled.
    pub fn enter(name: &'static str, shard: ShardId, tx: &Tx) -> Self {
        Self::under(name, tx.trace(), || {
            vec![
                KeyValue::new("atoll.shard", i64::from(shard.0)),
                KeyValue::new("atoll.tx", tx.hash().to_string()),
            ]
        })
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
