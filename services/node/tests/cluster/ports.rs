//! What every port serves besides its services, and how a process stops.

use std::{net::SocketAddr, path::Path, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use atoll_api::beacon::{Blocks, Head};
use atoll_fabric::{Call as _, Context, Remote, tls::to_host};
use atoll_tests::processes::{Process, free_port};
use atoll_wire::v1::{GetClusterRequest, ledger_service_client::LedgerServiceClient};
use futures::{future::join_all, stream};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::ATOLL;

const LONG: Duration = Duration::from_secs(60);

async fn connect(to: SocketAddr) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{to}"))?.timeout(LONG).connect().await?)
}

async fn health(channel: &Channel, name: &str) -> anyhow::Result<ServingStatus> {
    let request = HealthCheckRequest { service: name.to_owned() };
    Ok(HealthClient::new(channel.clone()).check(request).await?.into_inner().status())
}

/// The services that a port names, by both versions of reflection.
async fn reflected(channel: &Channel) -> anyhow::Result<[Vec<String>; 2]> {
    use tonic_reflection::pb::{v1, v1alpha};
    macro_rules! listed {
        ($version:ident) => {{
            use $version::server_reflection_request::MessageRequest;
            use $version::server_reflection_response::MessageResponse;
            let request = $version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let client = $version::server_reflection_client::ServerReflectionClient::new;
            let mut client = client(channel.clone());
            let mut answers =
                client.server_reflection_info(stream::iter([request])).await?.into_inner();
            let answer = answers.message().await?.context("an answer")?;
            match answer.message_response {
                Some(MessageResponse::ListServicesResponse(list)) => {
                    list.service.into_iter().map(|service| service.name).collect()
                }
                other => anyhow::bail!("{other:?}"),
            }
        }};
    }
    Ok([listed!(v1), listed!(v1alpha)])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_port_has_health_and_reflection_and_a_stop_lets_requests_finish() {
    let dir = tempfile::tempdir().expect("a directory");
    if let Err(error) = serve_and_stop(dir.path()).await {
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        panic!("{error:?}\n{log}");
    }
}

async fn serve_and_stop(dir: &Path) -> anyhow::Result<()> {
    let [beacon, shard, gateway, admin] = [free_port()?, free_port()?, free_port()?, free_port()?];
    let text = format!(
        "data = {:?}\n[chain]\nchain_id = 1\nshards = 1\ngenesis_time_ms = 5\n\
         [beacon]\nlisten = \"{beacon}\"\n[[shard]]\nid = 0\nlisten = \"{shard}\"\n\
         [gateway]\nlisten = \"{gateway}\"\n[admin]\nlisten = \"{admin}\"\n\
         [limits]\ndrain_ms = 3000\n",
        dir.join("data")
    );
    let file = dir.join("all.toml");
    std::fs::write(&file, text)?;
    let mut process = Process::start(ATOLL.as_ref(), "all", &file, &dir.join("log"))?;
    process.started().await?;
    let of_shard = ["Mempool", "Executor", "State", "Router"];
    for (port, services) in
        [(beacon, &["Beacon"][..]), (shard, &of_shard), (gateway, &["Ledger"]), (admin, &["Admin"])]
    {
        let channel = connect(port).await?;
        let names = services.iter().map(|service| format!("atoll.v1.{service}Service"));
        let names: Vec<String> = names.collect();
        for name in names.iter().map(String::as_str).chain([""]) {
            ensure!(health(&channel, name).await? == ServingStatus::Serving, "{name:?} at {port}");
        }
        for listed in reflected(&channel).await? {
            for name in names.iter().map(String::as_str).chain(["grpc.health.v1.Health"]) {
                ensure!(listed.iter().any(|known| known == name), "{name} is not in {listed:?}");
            }
        }
    }

    let channel = connect(beacon).await?;
    let watched = HealthCheckRequest { service: "atoll.v1.BeaconService".to_owned() };
    let mut watch = HealthClient::new(channel.clone()).watch(watched).await?.into_inner();
    let first = watch.message().await?.context("a status")?.status();
    ensure!(first == ServingStatus::Serving, "{first:?}");
    let link = Remote::new(channel.clone(), 8, LONG);
    let other = link.clone();
    // Blocks that are far away: answered when the time is over, and that is while it drains.
    let wait = Blocks { after: u64::MAX / 2, max: 1, wait_ms: 1_500 };
    let under_way = tokio::spawn(async move { other.call(Context::none(), wait).await });
    link.call(Context::none(), Head).await?;
    process.terminate()?;
    let next = watch.message().await?.context("a status")?.status();
    ensure!(next == ServingStatus::NotServing, "{next:?}");
    ensure!(health(&channel, "").await? == ServingStatus::NotServing, "the process still serves");
    link.call(Context::none(), Head).await.context("a request while it drains")?;
    under_way.await?.context("a request from before the stop")?;
    ensure!(process.ended().await?.code() == Some(0), "it has not stopped well");
    Ok(())
}

/// Runs a command to its end; what it says, and whether it has worked.
fn run(dir: &Path, line: &[&str]) -> anyhow::Result<(bool, String)> {
    let mut command = Command::new(ATOLL);
    command.current_dir(dir).env("ATOLL_HOME", dir).env_remove("ATOLL_TARGET").args(line);
    let output = command.output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_reach_a_public_port_with_tls_so_often_and_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    if let Err(error) = public_tls(dir.path()).await {
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        panic!("{error:?}\n{log}");
    }
}

async fn public_tls(dir: &Path) -> anyhow::Result<()> {
    let gateway = free_port()?;
    let files = |name: &str| {
        let path = |file: &str| dir.join("certs").join(file);
        (path(&format!("{name}.pem")), path(&format!("{name}.key")), path("authority.pem"))
    };
    let (certificate, key, authority) = files("all");
    let text = format!(
        "data = {:?}\n[chain]\nchain_id = 1\nshards = 1\ngenesis_time_ms = 5\n\
         [beacon]\n[[shard]]\nid = 0\n[gateway]\nlisten = \"{gateway}\"\n\
         [limits]\nclient_requests = 3\n\
         [tls]\ncertificate = {certificate:?}\nkey = {key:?}\nauthority = {authority:?}\n\
         public_certificate = {certificate:?}\npublic_key = {key:?}\n",
        dir.join("data")
    );
    let file = dir.join("all.toml");
    std::fs::write(&file, text)?;
    let (good, said) = run(dir, &["certs", "--out", "certs", "all.toml"])?;
    ensure!(good && said.contains("spiffe://atoll/1/shard/0/all"), "{said}");
    let (good, said) = run(dir, &["config", "check", "all.toml"])?;
    ensure!(good && said.contains("can be used"), "{said}");
    let (operator, secret, _) = files("operator");
    for (setting, words) in [
        (format!("tls.key={secret:?}"), "not the key of"),
        (format!("tls={{certificate={operator:?}}}"), "give all three"),
        ("tls.certificat=1".to_owned(), "did you mean `certificate`?"),
        ("tls={plain_text=true, authority=\"a\"}".to_owned(), "give all three"),
    ] {
        let (good, said) = run(dir, &["config", "check", "all.toml", "--set", &setting])?;
        ensure!(!good && said.contains(words), "{setting}: {said}");
    }
    for (setting, words) in
        [("tls={}", ""), ("beacon={listen=\"0.0.0.0:1\"}", "beyond loopback processes speak TLS")]
    {
        let both = ["config", "check", "all.toml", "--set", "tls={}", "--set", setting];
        let (good, said) = run(dir, &both)?;
        ensure!(good == words.is_empty() && said.contains(words), "{setting}: {said}");
    }

    let mut process = Process::start(ATOLL.as_ref(), "all", &file, &dir.join("log"))?;
    process.started().await?;
    let url = format!("https://127.0.0.1:{}", gateway.port());
    let authority = authority.to_string_lossy().into_owned();
    let line = ["cluster", "--target", &url, "--tls-authority", &authority];
    let (good, said) = run(dir, &line)?;
    ensure!(good, "{said}");
    run(dir, &["certs", "--out", "other", "--identity", "spiffe://atoll/1/gateway/g"])?;
    let line = ["cluster", "--target", &url, "--tls-authority", "other/authority.pem"];
    let (good, said) = run(dir, &line)?;
    ensure!(!good && said.contains("its certificate is refused"), "{said}");
    let (good, said) = run(dir, &["cluster", "--target", &url.replace("https", "http")])?;
    ensure!(!good, "{said}");

    let endpoint = Endpoint::from_shared(url)?;
    let now = std::time::UNIX_EPOCH.elapsed()?.as_millis() as u64;
    let channel = to_host(&endpoint, Some(Path::new(&authority)), Arc::new(move || now)).await?;
    let client = LedgerServiceClient::new(channel);
    let ask = || {
        let mut client = client.clone();
        async move { client.get_cluster(GetClusterRequest::default()).await }
    };
    let refusal = loop {
        let answers = join_all((0..32).map(|_| ask())).await;
        if let Some(status) = answers.into_iter().find_map(Result::err) {
            break status;
        }
    };
    ensure!(refusal.code() == tonic::Code::ResourceExhausted, "{refusal:?}");
    ensure!(refusal.message().contains("limits.client_requests"), "{refusal:?}");
    ensure!(refusal.metadata().contains_key("grpc-retry-pushback-ms"), "{refusal:?}");
    process.terminate()?;
    ensure!(process.ended().await?.code() == Some(0), "it has not stopped well");
    Ok(())
}
