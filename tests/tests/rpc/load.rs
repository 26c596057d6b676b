//! `atoll load --via rpc`, against a cluster.

use std::future::pending;

use atoll_load::LoadArgs;
use atoll_tests::here::Shape;
use clap::Parser;

use super::start;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    load: LoadArgs,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_load_generator_goes_through_json_rpc() -> anyhow::Result<()> {
    let (here, rpc) = start(Shape::new(3)).await?;
    let line = format!(
        "load --via rpc --target http://{} --workload erc20 --cross 30 --accounts 20 --streams 2 \
         --rate 100 --duration 1s --warmup 0s --seed 7 --quiet",
        rpc.0
    );
    let args = Cli::try_parse_from(line.split_whitespace())?.load;
    let summary = atoll_load::run(args, pending::<()>()).await?;
    assert!(summary.failures.is_empty(), "{summary}");
    assert_eq!((summary.offered, summary.submitted, summary.finals), (100, 100, 100));
    assert_eq!((summary.cluster.chain_id, summary.cluster.shards), (31_337, 3));
    let told = summary.json()?;
    for only_atoll in ["costs", "cross_share", "cross_final"] {
        assert!(!told.contains(only_atoll), "{told}");
    }
    here.stop().await;
    Ok(())
}
