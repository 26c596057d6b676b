//! Opens ports: every one serves gRPC, health and reflection.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use atoll_fabric::{Door, tls::Acceptor};
use atoll_telemetry::metrics::is_installed;
use tokio::{sync::watch, task::JoinHandle};
use tonic::{service::RoutesBuilder, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    access::Guard,
    ready,
    telemetry::Calls,
    visitors::Visitors,
    world::{Served, World},
};

/// Longest message between processes of a cluster, in bytes.
pub(crate) const MAX_MESSAGE_BYTES: usize = atoll_fabric::MAX_MESSAGE_BYTES;

/// How a port is entered.
pub(crate) struct Entrance {
    pub server: Server,
    pub door: Door,
    /// `None`: in plain text.
    pub tls: Option<Acceptor>,
    /// `None`: everybody may call everything.
    pub guard: Option<Guard>,
    /// `None`: as often as they like.
    pub visitors: Option<Visitors>,
}

impl Entrance {
    /// In plain text, for everybody.
    pub fn plain((server, door): (Server, Door)) -> Self {
        Self { server, door, tls: None, guard: None, visitors: None }
    }
}

/// A port that is being served.
pub(crate) struct Port {
    pub address: SocketAddr,
    names: Vec<String>,
    pub health: HealthReporter,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Port {
    /// Serves what `add` adds. `names` are the services that health is reported of.
    pub async fn open(
        world: &dyn World,
        entrance: Entrance,
        listen: SocketAddr,
        names: &[&str],
        add: impl FnOnce(&mut RoutesBuilder),
    ) -> anyhow::Result<Self> {
        let (health, health_service) = tonic_health::server::health_reporter();
        for name in names.iter().copied().chain([""]) {
            health.set_service_status(name, ServingStatus::Serving).await;
        }
        health.set_service_status(ready::NAME, ServingStatus::NotServing).await;
        let mut routes = RoutesBuilder::default();
        routes.add_service(health_service);
        let descriptors = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(atoll_wire::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        routes.add_service(descriptors().build_v1()?);
        routes.add_service(descriptors().build_v1alpha()?);
        add(&mut routes);
        let (stop, mut stopped) = watch::channel(false);
        let Entrance { mut server, door, tls, guard, visitors } = entrance;
        let mut routes = world.routes(routes.routes());
        if is_installed() {
            routes = routes.into_axum_router().layer(Calls).into();
        }
        let routes = match guard {
            Some(guard) => guard.routes(routes),
            None => routes,
        };
        let router = server.add_routes(match visitors {
            Some(visitors) => visitors.routes(routes),
            None => routes,
        });
        let stop_now = async move {
            // An error says that nobody can stop it any more: then it stops too.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let Served { address, task } = world
            .serve(listen, door, tls, router, Box::pin(stop_now))
            .await
            .with_context(|| format!("cannot listen on {listen}; is another cluster running?"))?;
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Ok(Self { address, names, health, stop, task })
    }

    /// Says "not serving", and goes on.
    pub async fn drain(&self) {
        for name in self.names.iter().map(String::as_str).chain(["", ready::NAME]) {
            self.health.set_service_status(name, ServingStatus::NotServing).await;
        }
    }

    /// Answers what is under way, and closes.
    pub async fn close(self) {
        self.stop.send_replace(true);
        // Streams that clients hold open do not end by themselves.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.task).await;
    }
}

/// A server for the other processes of a cluster.
pub(crate) fn internal_server() -> (Server, Door) {
    let server = Server::builder()
        .max_concurrent_streams(4_096)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)));
    (server, Door { connections: 4_096, greeting: Duration::from_secs(10) })
}
