//! Batches. Transactions that follow one another in a batch are taken together: their signatures are
//! recovered on all cores, and each shard is asked once. Everything else is answered one by one.

use std::sync::Arc;

use alloy_primitives::{B256, Bytes};
use futures::future::Either;
use jsonrpsee::core::middleware::{Batch, BatchEntry, Notification, RpcServiceT};
use jsonrpsee::server::{BatchResponseBuilder, MethodResponse, ResponsePayload};
use jsonrpsee::types::{Id, Request};

use super::Shared;
use super::error::Failure;
use super::params::Params;

/// The method whose requests are taken together.
const SEND: &str = "eth_sendRawTransaction";

/// Answers batches.
#[derive(Clone)]
pub(crate) struct Batches<S> {
    pub inner: S,
    pub shared: Arc<Shared>,
    pub response_bytes: usize,
}

fn is_send(entry: &Result<BatchEntry<'_>, impl Sized>) -> bool {
    matches!(entry, Ok(BatchEntry::Call(request)) if request.method == SEND)
}

impl<S> Batches<S> {
    /// Takes transactions, and answers each.
    async fn sends(self, requests: Vec<Request<'_>>) -> Vec<MethodResponse> {
        let mut raws = Vec::with_capacity(requests.len());
        let read: Vec<(Id<'_>, Result<(), Failure>)> = requests
            .into_iter()
            .map(|request| {
                let params = Params::read(&request.params());
                let raw = params.and_then(|params| params.at::<Bytes>(0, "transaction"));
                (request.id, raw.map(|raw| raws.push(raw)))
            })
            .collect();
        let mut ends = self.shared.submit_together(&raws).await.into_iter();
        let told = read.into_iter().map(|(id, read)| {
            let missing = || Err(Failure::internal("the transaction has no end"));
            match read.and_then(|()| ends.next().unwrap_or_else(missing)) {
                Ok(hash) => {
                    let payload = ResponsePayload::<B256>::success(hash);
                    MethodResponse::response(id, payload, self.response_bytes)
                }
                Err(failure) => {
                    MethodResponse::error(id, jsonrpsee::types::ErrorObject::from(failure))
                }
            }
        });
        told.collect()
    }
}

impl<S> RpcServiceT for Batches<S>
where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            NotificationResponse = MethodResponse,
            BatchResponse = MethodResponse,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    type MethodResponse = MethodResponse;
    type NotificationResponse = MethodResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        self.inner.call(request)
    }

    fn notification<'a>(
        &self,
        notification: Notification<'a>,
    ) -> impl Future<Output = MethodResponse> + Send + 'a {
        self.inner.notification(notification)
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        if !batch.iter().any(is_send) {
            return Either::Left(self.inner.batch(batch));
        }
        let this = self.clone();
        Either::Right(async move {
            let mut answers = BatchResponseBuilder::new_with_limit(this.response_bytes);
            let mut entries = batch.into_iter().peekable();
            while let Some(entry) = entries.next() {
                let told = match entry {
                    Ok(BatchEntry::Call(request)) if request.method == SEND => {
                        let mut run = vec![request];
                        while let Some(Ok(BatchEntry::Call(next))) = entries.next_if(is_send) {
                            run.push(next);
                        }
                        this.clone().sends(run).await
                    }
                    Ok(BatchEntry::Call(request)) => vec![this.inner.call(request).await],
                    Ok(BatchEntry::Notification(notification)) => {
                        this.inner.notification(notification).await;
                        Vec::new()
                    }
                    Err(error) => {
                        let (error, id) = error.into_parts();
                        vec![MethodResponse::error(id, error)]
                    }
                };
                for answer in told {
                    if let Err(too_long) = answers.append(answer) {
                        return too_long;
                    }
                }
            }
            MethodResponse::from_batch(answers.finish())
        })
    }
}
