//! JSON-RPC against whole clusters: one chain out of many shards, and what clients get wrong.

mod accounts;
mod bad;
mod chain;
mod develop;
mod genesis;
mod load;
mod logs;
mod simulate;
mod trace;

use anyhow::Context as _;
use atoll_tests::{
    here::{Here, Shape},
    rpc::Rpc,
};

async fn start(mut shape: Shape) -> anyhow::Result<(Here, Rpc)> {
    atoll_tests::log();
    shape.rpc = true;
    let here = Here::start(&shape).await?;
    let rpc = Rpc(here.cluster.rpc.context("it serves JSON-RPC")?);
    Ok((here, rpc))
}
