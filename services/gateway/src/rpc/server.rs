//! The port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_telemetry::metrics::{Timer, table};
use futures::StreamExt as _;
use jsonrpsee::RpcModule;
use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::core::middleware::RpcServiceBuilder;
use jsonrpsee::core::traits::IdProvider;
use jsonrpsee::server::{
    BatchRequestConfig, PingConfig, Server, ServerConfig, ServerHandle,
    serve_with_graceful_shutdown, stop_channel,
};
use jsonrpsee::types::{ErrorObjectOwned, SubscriptionId};
use serde_json::{Value, value::RawValue};
use tokio::net::TcpListener;

use super::batch::Batches;
use super::bodies::Bodies;
use super::cors::Cors;
use super::develop;
use super::idle::Idle;
use super::params::Params;
use super::subscribe;
use super::{DEVELOPMENT_METHODS, METHODS, RpcConfig, Shared, TRACE_METHODS};
use crate::Ledger;

/// JSON-RPC that is being served.
pub struct Rpc {
    pub address: SocketAddr,
    handle: ServerHandle,
}

/// Names of subscriptions: hexadecimal, as libraries expect them.
#[derive(Debug, Default)]
struct Ids(AtomicU64);

impl IdProvider for Ids {
    fn next_id(&self) -> SubscriptionId<'static> {
        let next = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        SubscriptionId::Str(format!("{next:#x}").into())
    }
}

impl Rpc {
    /// Serves JSON-RPC beside a gateway's other requests.
    ///
    /// # Errors
    /// If the port cannot be had.
    pub async fn start(ledger: &Ledger, config: RpcConfig) -> std::io::Result<Self> {
        let limits = ledger.0.limits.rpc.clone();
        let server = ServerConfig::builder()
            .max_connections(limits.connections)
            .max_request_body_size(limits.request_bytes)
            .max_response_body_size(limits.response_bytes)
            .max_subscriptions_per_connection(limits.subscriptions)
            .set_message_buffer_capacity(limits.message_buffer)
            .set_batch_request_config(BatchRequestConfig::Limit(limits.batch_requests))
            .enable_ws_ping(PingConfig::new())
            .set_id_provider(Ids::default())
            .build();
        let http = tower::ServiceBuilder::new()
            .layer(Cors { any_origin: config.development })
            .layer(Bodies::new(&limits));
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let (shared, methods) = methods(ledger, config).map_err(std::io::Error::other)?;
        let response_bytes = limits.response_bytes as usize;
        let batches = move |inner| Batches { inner, shared: shared.clone(), response_bytes };
        let service = Server::builder()
            .set_config(server)
            .set_http_middleware(http)
            .set_rpc_middleware(RpcServiceBuilder::new().layer_fn(batches))
            .to_service_builder();
        let (stop, handle) = stop_channel();
        tokio::spawn(async move {
            let mut guests = std::pin::pin!(limits.door.open(listener, None));
            let mut stopped = std::pin::pin!(stop.clone().shutdown());
            loop {
                let guest = tokio::select! {
                    guest = guests.next() => guest,
                    () = &mut stopped => return,
                };
                let Some(Ok(guest)) = guest else { continue };
                let guest = Idle::new(guest, limits.idle);
                let service = service.clone().build(methods.clone(), stop.clone());
                let served = serve_with_graceful_shutdown(guest, service, stop.clone().shutdown());
                tokio::spawn(async move {
                    if let Err(error) = served.await {
                        tracing::debug!(%error, "a connection broke");
                    }
                });
            }
        });
        Ok(Self { address, handle })
    }

    /// Stops it, and waits until it has.
    pub async fn stop(self) {
        // An error says that it has stopped.
        let _ = self.handle.stop();
        self.handle.stopped().await;
    }
}

/// Of a call, by OpenTelemetry's conventions.
fn labels(method: &str, answer: &Result<Value, ErrorObjectOwned>) -> Vec<String> {
    let status = match answer {
        Ok(_) => "OK".to_owned(),
        Err(error) => error.code().to_string(),
    };
    vec!["jsonrpc".to_owned(), method.to_owned(), status]
}

fn methods(
    ledger: &Ledger,
    config: RpcConfig,
) -> Result<(Arc<Shared>, RpcModule<Arc<Shared>>), RegisterMethodError> {
    let development = config.development;
    let shared = Arc::new(Shared::start(ledger, config));
    let mut module = RpcModule::new(shared.clone());
    let more = [DEVELOPMENT_METHODS, develop::METHODS].into_iter().filter(|_| development);
    for method in METHODS.iter().chain(more.flatten()).copied() {
        module.register_async_method(method, move |params, shared, _| async move {
            let timer = Timer::start();
            let answer = match Params::read(&params) {
                Ok(params) => shared.answer(method, params).await,
                Err(failure) => Err(failure),
            };
            let answer = answer.map_err(ErrorObjectOwned::from);
            timer.stop(&table::RPC, || labels(method, &answer), None);
            answer
        })?;
    }
    for method in TRACE_METHODS.iter().copied() {
        module.register_async_method(method, move |params, shared, _| async move {
            let params = Params::read(&params)?;
            let answer = shared.trace(method, params).await?;
            Ok::<Box<RawValue>, ErrorObjectOwned>(answer)
        })?;
    }
    module.register_subscription(
        "eth_subscribe",
        "eth_subscription",
        "eth_unsubscribe",
        |params, pending, shared, _| async move {
            match Params::read(&params) {
                Ok(params) => subscribe::serve(shared.as_ref().clone(), params, pending).await,
                Err(failure) => pending.reject(failure).await,
            }
        },
    )?;
    Ok((shared, module))
}
