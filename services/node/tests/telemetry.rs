//! What a collector gets of a cluster of several processes, over OTLP: the tree of spans of one transaction
//! across all shards, and metrics. And what Prometheus gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall as _;
use anyhow::{Context as _, ensure};
use atoll::config::Role;
use atoll_telemetry::metrics::table;
use atoll_tests::{
    contracts::{Hop, hop},
    processes::{BEACON, GATEWAY, Plan, Processes, SHARDS, SPLIT, role_name, until},
    wallet::{self, Wallet},
};
use atoll_types::TraceContext;
use atoll_wire::v1::SubmitTransactionRequest;
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{Metric, metric::Data, number_data_point},
    resource::v1::Resource,
    trace::v1::Span,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, async_trait, transport::Server};

/// Everything that was received, with the role of the process that sent it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Received>>);

#[derive(Default)]
struct Received {
    spans: Vec<(String, Span)>,
    /// The newest of each process.
    metrics: BTreeMap<String, Vec<Metric>>,
}

impl Collector {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start(&self) -> anyhow::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .add_service(MetricsServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(format!("http://{address}"))
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|pair| pair.key == key);
    match found.and_then(|pair| pair.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// What a process says it is: its role, and its shard if it has one.
fn role(resource: Option<Resource>) -> String {
    let attributes = resource.unwrap_or_default().attributes;
    assert_eq!(text(&attributes, "service.name"), "atoll");
    let instance = text(&attributes, "service.instance.id");
    let role = text(&attributes, "atoll.role");
    assert!(instance.contains(&role) && !role.is_empty(), "{instance}");
    match text(&attributes, "atoll.shard").as_str() {
        "" => role,
        shard => format!("{role} {shard}"),
    }
}

#[async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let role = role(resource.resource);
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.lock().spans.extend(spans.map(|span| (role.clone(), span)));
        }
        Ok(Response::new(Default::default()))
    }
}

#[async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for resource in request.into_inner().resource_metrics {
            let role = role(resource.resource);
            let metrics = resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            self.lock().metrics.insert(role, metrics.collect());
        }
        Ok(Response::new(Default::default()))
    }
}

/// A stage, its shard, and the process that told of it.
type Stage = (String, String, String);

/// The process that a role of a shard stands in.
fn at(shard: u16, role: &str) -> String {
    if shard == SPLIT { format!("{role} {shard}") } else { format!("shard {shard}") }
}

/// Every stage of a call over all shards by somebody of the split shard, but where its group runs.
fn expected() -> BTreeSet<Stage> {
    let mut stages = BTreeSet::new();
    let mut add = |name: &str, shard: u16, role: String| {
        stages.insert((name.to_owned(), shard.to_string(), role));
    };
    add("submit", SPLIT, "gateway".to_owned());
    for (name, role) in [
        ("admit", "mempool"),
        ("run", "executor"),
        ("predict", "router"),
        ("share", "router"),
        ("order", "state"),
        ("decide", "state"),
        ("final", "state"),
    ] {
        add(name, SPLIT, at(SPLIT, role));
    }
    for shard in 0..SHARDS {
        add("lease", shard, at(shard, "state"));
        add("apply", shard, at(shard, "state"));
    }
    stages
}

fn stage((role, span): &(String, Span)) -> Stage {
    (span.name.clone(), text(&span.attributes, "atoll.shard"), role.clone())
}

/// Submits a call over all shards under a trace of the client's.
async fn cross(
    cluster: &Processes,
    wallet: &mut Wallet,
    client: TraceContext,
) -> anyhow::Result<()> {
    let mut next = Address::ZERO;
    for nonce in 0..u64::from(SHARDS) {
        let code = hop(next)?;
        let deployment = wallet.sign(&wallet::Plan::create(code))?;
        cluster.api.carry_out(&[deployment]).await.context("deploy")?;
        next = wallet.address().create(nonce);
    }
    let call = Hop::hopCall { amount: U256::ONE, failAtEnd: false };
    let tx = wallet.sign(&wallet::Plan::call(next, call.abi_encode()))?;
    let transaction = tx.raw.0.clone();
    let mut request = Request::new(SubmitTransactionRequest { transaction });
    request.metadata_mut().insert("traceparent", client.header().parse()?);
    cluster.api.client.clone().submit_transaction(request).await?;
    let receipt = cluster.api.end_of(tx.hash).await?;
    ensure!(receipt.status && receipt.shards == [0, 1, 2], "{receipt:?}");
    Ok(())
}

/// The tree that one trace has to be.
async fn check_spans(collector: &Collector, client: TraceContext) -> anyhow::Result<()> {
    let expected = expected();
    let trace = client.trace_id.to_be_bytes();
    let spans = until("all spans are received", async || {
        let received = collector.lock();
        let of_trace = received.spans.iter().filter(|(_, span)| span.trace_id == trace);
        let spans: Vec<_> = of_trace.cloned().collect();
        let stages: BTreeSet<Stage> = spans.iter().map(stage).collect();
        Ok(expected.is_subset(&stages).then_some(spans))
    })
    .await
    .with_context(|| {
        let stages: BTreeSet<Stage> = collector.lock().spans.iter().map(stage).collect();
        format!("missing: {:?}", expected.difference(&stages))
    })?;
    let root = spans.iter().find(|(_, span)| span.name == "submit").context("a root")?;
    ensure!(root.1.parent_span_id == client.span_id.to_be_bytes(), "the client is above it");
    for (role, span) in spans.iter().filter(|(_, span)| span.name != "submit") {
        ensure!(span.parent_span_id == root.1.span_id, "{role}: {} is not below it", span.name);
        ensure!(span.start_time_unix_nano <= span.end_time_unix_nano, "{}", span.name);
    }
    let others = spans.iter().map(stage).filter(|stage| !expected.contains(stage));
    let others: BTreeSet<Stage> = others.collect();
    let runs = others.iter().all(|(name, ..)| name == "run");
    ensure!(runs && others.len() <= 1, "besides, its group ran somewhere: {others:?}");
    for name in ["submit", "admit", "final"] {
        let count = spans.iter().filter(|(_, span)| span.name == name).count();
        ensure!(count == 1, "{count} times {name}");
    }
    Ok(())
}

/// A trace that nobody asked for, because the transaction crosses shards: a deployment, for one.
async fn check_begun(collector: &Collector) -> anyhow::Result<()> {
    let wanted = ["escalate", "predict", "share", "order", "lease", "decide", "apply", "final"];
    until("a trace begins where a transaction is found to cross shards", async || {
        let received = collector.lock();
        let is_root = |span: &&Span| span.name == "escalate" && span.parent_span_id.is_empty();
        let mut roots = received.spans.iter().map(|(_, span)| span).filter(is_root);
        let whole = roots.any(|root| {
            let of_trace = received.spans.iter().filter(|(_, s)| s.trace_id == root.trace_id);
            let names: BTreeSet<&str> = of_trace.map(|(_, span)| span.name.as_str()).collect();
            wanted.iter().all(|name| names.contains(name)) && !names.contains("submit")
        });
        Ok(whole.then_some(()))
    })
    .await
}

/// The sum of what a process tells of a metric.
fn sum(metrics: &[Metric], name: &str) -> f64 {
    let number = |value: Option<number_data_point::Value>| match value {
        Some(number_data_point::Value::AsDouble(number)) => number,
        _ => 0.0,
    };
    let found = metrics.iter().find(|metric| metric.name == name);
    match found.and_then(|metric| metric.data.clone()) {
        Some(Data::Sum(sum)) => sum.data_points.into_iter().map(|p| number(p.value)).sum(),
        Some(Data::Gauge(gauge)) => gauge.data_points.into_iter().map(|p| number(p.value)).sum(),
        Some(Data::Histogram(times)) => times.data_points.iter().map(|p| p.count as f64).sum(),
        _ => 0.0,
    }
}

async fn check_metrics(collector: &Collector) -> anyhow::Result<()> {
    let wanted = [
        (BEACON.to_owned(), "atoll.beacon.blocks"),
        (BEACON.to_owned(), "atoll.group.rounds"),
        (BEACON.to_owned(), "atoll.log.sync.duration"),
        (GATEWAY.to_owned(), "rpc.server.call.duration"),
        (GATEWAY.to_owned(), "process.cpu.time"),
        (at(0, "state"), "atoll.stage.duration"),
        (at(SPLIT, "state"), "atoll.state.cut"),
        (at(SPLIT, "mempool"), "atoll.mempool.events"),
        (at(SPLIT, "executor"), "atoll.work.batches"),
        (at(SPLIT, "router"), "atoll.router.messages"),
    ];
    let what = format!("metrics are received: {wanted:?}");
    until(&what, async || {
        let received = collector.lock();
        let has = |(role, name): &(String, &str)| {
            received.metrics.get(role).is_some_and(|metrics| sum(metrics, name) > 0.0)
        };
        Ok(wanted.iter().all(has).then_some(()))
    })
    .await?;
    for metric in collector.lock().metrics.values().flatten() {
        let declared = table::ALL.iter().find(|declared| declared.name == metric.name);
        let declared = declared.with_context(|| format!("{} is not declared", metric.name))?;
        ensure!(declared.unit == metric.unit, "{}: {}", metric.name, metric.unit);
    }
    Ok(())
}

/// What a process answers to Prometheus.
fn scrape(cluster: &mut Processes, name: &str) -> anyhow::Result<String> {
    let logged = cluster.process(name)?.logged();
    let line = logged.lines().find(|line| line.contains("metrics are served"));
    let address = line.and_then(|line| line.split("address=").nth(1)).context("it says where")?;
    let mut stream = TcpStream::connect(address.trim())?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    Ok(answer)
}

async fn scenario(
    cluster: &mut Processes,
    collector: &Collector,
    wallet: &mut Wallet,
) -> anyhow::Result<()> {
    let client = TraceContext { trace_id: 0xa11_0000_0000_0000_0000_0002, span_id: 0xc11e_0002 };
    cross(cluster, wallet, client).await?;
    check_spans(collector, client).await?;
    check_begun(collector).await?;
    check_metrics(collector).await?;
    let gateway = scrape(cluster, GATEWAY)?;
    let submitted = "rpc_server_call_duration_seconds_count{rpc_system_name=\"grpc\",\
                     rpc_method=\"atoll.v1.LedgerService/SubmitTransaction\",\
                     rpc_response_status_code=\"OK\"} ";
    ensure!(gateway.contains(submitted), "{gateway}");
    let state = scrape(cluster, &role_name(Role::State))?;
    ensure!(state.contains("atoll_log_sync_duration_seconds_bucket{service=\"state\""), "{state}");
    // What was not exported yet goes out with the end of the process.
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_the_whole_trace_and_the_metrics_of_all_processes() {
    let mut wallet = Wallet::seeded("telemetry", 0, 0).expect("a key");
    let address = wallet.address();
    let links = (0..u64::from(SHARDS)).map(|nonce| address.create(nonce));
    let mut placement: BTreeMap<Address, u16> = links.zip(0..).collect();
    placement.insert(address, SPLIT);
    let balances = [(address, "1000000000000000000000".to_owned())].into();
    let collector = Collector::default();
    let endpoint = collector.start().await.expect("a collector");
    let mut plan =
        Plan::new(env!("CARGO_BIN_EXE_atoll").as_ref(), balances, placement).expect("ports");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "300"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("ATOLL_TRACES_CROSSING", "1"),
        ("ATOLL__METRICS__LISTEN", "127.0.0.1:0"),
    ];
    plan.variables = variables.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let mut cluster = Processes::start(plan).await.expect("a cluster");
    // The panic comes while the processes are there, so that they show what they have logged.
    if let Err(error) = scenario(&mut cluster, &collector, &mut wallet).await {
        panic!("{error:?}");
    }
}
