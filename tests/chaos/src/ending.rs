//! What is there when everything has come to rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_sol_types::SolCall as _;
use anyhow::{Context as _, ensure};
use atoll_tests::{PATIENCE, api::Api, contracts::Book, processes::Processes};
use atoll_types::{Address, B256};
use atoll_wire::v1::{
    CallOutcome, GetReceiptRequest, TransactionFinality, get_receipt_request::Wait,
};
use rand::rngs::StdRng;
use tokio::{sync::watch, task::JoinSet};
use tonic::Code;

use crate::{
    client::{Fate, Recorder, bring_about, content, lists, run, totals},
    history::{End, Ending, History, Step},
    run::quiet,
    stage::Stage,
};

/// How long the receipt of what was acknowledged is looked for.
const LOOK: Duration = Duration::from_secs(30);
/// Receipts that are asked for at a time.
const AT_ONCE: usize = 32;
/// Lists that one call reads.
const LISTS: usize = 8;

pub(crate) async fn history(
    cluster: &Processes,
    stage: &Arc<Stage>,
    recorder: &Recorder,
    rng: &mut StdRng,
) -> anyhow::Result<History> {
    let api = &cluster.api;
    // What nobody knows the end of is sent again, until it has one.
    let (_go_on, never) = watch::channel(false);
    for tx in recorder.take_unknown() {
        let fate = bring_about(api, &tx, Wait::Final, Some(PATIENCE), &never, rng);
        let begun = Instant::now();
        if let Fate::Unknown = fate.await? {
            ensure!(begun.elapsed() < PATIENCE, "{} has no end", tx.hash);
        }
    }
    let head = quiet(cluster).await?;
    let ops = recorder.take();
    let mut ending = Ending { receipts: receipts(api, &ops).await?, ..Ending::default() };
    let all: Vec<u64> = stage.all_lists().collect();
    for some in all.chunks(LISTS) {
        let steps: Vec<_> = some.iter().map(|list| Step::Read { list: *list }).collect();
        let returned = call(api, stage, run(stage, &steps), head).await?;
        ending.lists.extend(some.iter().copied().zip(lists(&steps, &returned)?));
    }
    let held = call(api, stage, totals(stage), head).await?;
    let held = Book::totalsCall::abi_decode_returns(&held)?;
    ending.balances = held.into_iter().map(u64::try_from).collect::<Result<_, _>>()?;
    let senders: BTreeSet<Address> =
        ops.iter().filter_map(|op| op.tx.map(|tx| tx.sender)).collect();
    for sender in senders {
        ending.nonces.insert(sender, api.account(sender, head).await?.nonce);
    }
    for purse in &stage.purses {
        let balance = api.account(*purse, head).await?.balance;
        ending.purses.insert(*purse, balance.try_into()?);
    }
    Ok(History { world: stage.world(), ops, ending })
}

async fn call(
    api: &Api,
    stage: &Stage,
    data: Vec<u8>,
    min_cut: u64,
) -> anyhow::Result<bytes::Bytes> {
    let reply =
        api.call(stage.books[0], data.into(), min_cut).await.context("a call at the end")?;
    ensure!(reply.outcome() == CallOutcome::Succeeded, "a call did not succeed: {reply:?}");
    Ok(reply.return_data)
}

async fn receipts(
    api: &Api,
    ops: &[crate::history::Op],
) -> anyhow::Result<BTreeMap<B256, (bool, String)>> {
    let mut receipts = BTreeMap::new();
    let mut asking = JoinSet::new();
    for op in ops {
        let Some(tx) = op.tx else { continue };
        while asking.len() >= AT_ONCE {
            take(&mut asking, &mut receipts).await?;
        }
        let acknowledged = matches!(op.end, End::Ok(_) | End::Reverted);
        asking.spawn(last(api.clone(), tx.hash, acknowledged));
    }
    while !asking.is_empty() {
        take(&mut asking, &mut receipts).await?;
    }
    Ok(receipts)
}

type Last = anyhow::Result<Option<(B256, (bool, String))>>;

async fn take(
    asking: &mut JoinSet<Last>,
    receipts: &mut BTreeMap<B256, (bool, String)>,
) -> anyhow::Result<()> {
    if let Some(last) = asking.join_next().await {
        receipts.extend(last??);
    }
    Ok(())
}

/// The final receipt of a transaction, if there is one.
async fn last(api: Api, hash: B256, acknowledged: bool) -> Last {
    let begun = Instant::now();
    loop {
        let wire = bytes::Bytes::copy_from_slice(hash.as_slice());
        let request = GetReceiptRequest { hash: wire, wait: Wait::Final.into(), timeout_ms: 2_000 };
        let unavailable = match api.client.clone().get_receipt(request).await {
            Ok(reply) => {
                let receipt = reply.into_inner().receipt.context("a reply without receipt")?;
                if receipt.finality() == TransactionFinality::Final {
                    return Ok(Some((hash, (receipt.status, content(&receipt)))));
                }
                false
            }
            Err(status) => status.code() != Code::NotFound,
        };
        // Nobody waits for what was not acknowledged: nothing is under way any more.
        let enough = if acknowledged || unavailable { LOOK } else { Duration::ZERO };
        if begun.elapsed() >= enough {
            ensure!(!unavailable, "nobody says what became of {hash}");
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
