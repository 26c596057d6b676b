//! `atoll tx`: signs, sends and follows a transaction.

use std::time::Duration;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use anyhow::{Context, ensure};
use atoll_wire::v1::TransactionReceipt;
use clap::{Args, Subcommand};

use super::client::{self, Client, has_come};
use super::estimate::{self, Trial};
use super::parse::{self, typed};
use super::receipt::{ReceiptReport, Wait};
use super::{abi, amount, artefact, key, show, target::Target};

/// What whoever orders transactions gets for a unit of gas if nothing else is said, in wei.
const PRIORITY_FEE: u128 = 1_000_000_000;
/// Waiting longer than this is said.
const QUIET_TIME: Duration = Duration::from_secs(2);

// What to send. No doc comment: clap would show it as what `atoll tx` is.
#[derive(Clone, Debug, Subcommand)]
pub enum TxCommand {
    /// Pays, or sends data to a contract
    Send(SendArgs),
    /// Creates a contract
    Deploy(DeployArgs),
    /// Calls a function of a contract in a transaction
    CallFn(CallFnArgs),
    /// Sends a transaction that is signed already
    Raw(RawArgs),
}

/// What `atoll tx send` can be told.
#[derive(Args, Clone, Debug)]
pub struct SendArgs {
    /// Who is paid
    #[arg(long, value_name = "ADDRESS", value_parser = typed(parse::address))]
    pub to: Address,

    /// Data to send along, in hex
    #[arg(long, value_name = "0x…", value_parser = typed(parse::bytes))]
    pub data: Option<Bytes>,

    #[command(flatten)]
    pub signing: SigningArgs,
    #[command(flatten)]
    pub following: FollowingArgs,
}

/// What `atoll tx deploy` can be told.
#[derive(Args, Clone, Debug)]
pub struct DeployArgs {
    /// Path of the contract's artefact (JSON with `abi` and `bytecode`), or its code as 0x…
    #[arg(value_name = "ARTEFACT")]
    pub artefact: String,

    /// Arguments of the constructor
    #[arg(long, num_args = 1.., allow_negative_numbers = true, value_name = "ARG")]
    pub args: Vec<String>,

    /// Types of the constructor's arguments, for code as 0x…: `address,uint256`
    #[arg(long)]
    pub types: Option<String>,

    #[command(flatten)]
    pub signing: SigningArgs,
    #[command(flatten)]
    pub following: FollowingArgs,
}

/// What `atoll tx call-fn` can be told.
#[derive(Args, Clone, Debug)]
pub struct CallFnArgs {
    /// The contract
    #[arg(long, value_name = "ADDRESS", value_parser = typed(parse::address))]
    pub to: Address,

    /// The function, such as "hop(uint256,bool)"
    pub signature: String,

    /// Its arguments: numbers (5, -5, 1.5ether), true, 0x…, text, [1,2], (1,true)
    #[arg(allow_negative_numbers = true)]
    pub args: Vec<String>,

    #[command(flatten)]
    pub signing: SigningArgs,
    #[command(flatten)]
    pub following: FollowingArgs,
}

/// What `atoll tx raw` can be told.
#[derive(Args, Clone, Debug)]
pub struct RawArgs {
    /// The signed transaction in hex (EIP-2718)
    #[arg(value_name = "0x…", value_parser = typed(parse::bytes))]
    pub transaction: Bytes,

    #[command(flatten)]
    pub following: FollowingArgs,
}

/// Who signs, and what it may cost.
#[derive(Args, Clone, Debug)]
pub struct SigningArgs {
    /// Ether to send along, such as 1.5ether, 30gwei or 7wei
    #[arg(long, value_name = "AMOUNT", default_value = "0", value_parser = typed(amount::wei))]
    pub value: U256,

    /// Development account that signs [default: 0, unless there is a key]
    #[arg(long, value_name = "0..9", conflicts_with = "key",
          value_parser = clap::value_parser!(u8).range(0..i64::from(key::DEVELOPMENT_ACCOUNTS)))]
    pub from: Option<u8>,

    /// Private key that signs. The variable ATOLL_KEY does the same, unseen by other users
    #[arg(long, value_name = "0x…")]
    pub key: Option<key::Secret>,

    /// The sender's nonce [default: the next one]
    #[arg(long)]
    pub nonce: Option<u64>,

    /// Gas limit [default: an estimate]
    #[arg(long)]
    pub gas: Option<u64>,

    /// The most for a unit of gas, such as 30gwei [default: twice the base fee, and the priority fee]
    #[arg(long, value_name = "AMOUNT", value_parser = typed(amount::gas_price))]
    pub max_fee: Option<u128>,

    /// What is paid above the base fee for a unit of gas [default: 1gwei, at most the max fee]
    #[arg(long, value_name = "AMOUNT", value_parser = typed(amount::gas_price))]
    pub priority_fee: Option<u128>,
}

/// How far the transaction is followed.
#[derive(Args, Clone, Debug)]
pub struct FollowingArgs {
    /// What to wait for
    #[arg(long, value_enum, default_value_t = Wait::Final)]
    pub wait: Wait,

    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A transaction that is signed, and what its receipt does not say while it is pending.
pub(super) struct Signed {
    pub raw: Vec<u8>,
    pub sender: Address,
    pub nonce: u64,
    pub to: Option<Address>,
}

/// Sends a transaction and shows its receipt. An error if it is dropped, fails, or does not come as
/// far as was waited for.
pub async fn run(command: TxCommand, target: Target) -> anyhow::Result<()> {
    let (to, data, signing, following) = match command {
        TxCommand::Send(args) => {
            (args.to.into(), args.data.unwrap_or_default(), args.signing, args.following)
        }
        TxCommand::Deploy(args) => {
            let code = artefact::creation(&args.artefact, args.types.as_deref(), &args.args)?;
            (TxKind::Create, code, args.signing, args.following)
        }
        TxCommand::CallFn(args) => {
            let function = abi::function(&args.signature)?;
            let data = abi::encode_call(&function, &args.args)?;
            (args.to.into(), data, args.signing, args.following)
        }
        TxCommand::Raw(args) => {
            let client = Client::connect(&target).await?;
            let receipt = send(&client, &args.transaction, &args.following).await?;
            let report = ReceiptReport::read(&receipt)?;
            return tell(&report, &receipt, &args.following);
        }
    };
    let signer = key::signer(signing.from, signing.key.as_ref())?;
    let client = Client::connect(&target).await?;
    let signed = sign(&client, &signer, to, data, &signing).await?;
    let receipt = send(&client, &signed.raw, &following).await?;
    let report = ReceiptReport::read(&receipt)?;
    tell(&report.with_signed(signed.sender, signed.nonce, signed.to), &receipt, &following)
}

pub(super) async fn sign(
    client: &Client,
    signer: &PrivateKeySigner,
    to: TxKind,
    data: Bytes,
    args: &SigningArgs,
) -> anyhow::Result<Signed> {
    let (sender, value) = (signer.address(), args.value);
    let cluster = client.cluster(&[]).await?;
    let (max_fee, priority_fee) = fees(cluster.base_fee, args.max_fee, args.priority_fee)?;
    let nonce = match args.nonce {
        Some(nonce) => nonce,
        None => client.account(sender, false).await?.nonce,
    };
    let gas_limit = match args.gas {
        Some(gas) => gas,
        None => {
            let trial = Trial { from: sender, to, value, data: data.clone() };
            estimate::gas_limit(client, &trial).await?
        }
    };
    let tx = TxEip1559 {
        chain_id: cluster.chain_id,
        nonce,
        gas_limit,
        max_fee_per_gas: max_fee,
        max_priority_fee_per_gas: priority_fee,
        to,
        value,
        input: data,
        access_list: Default::default(),
    };
    let signature = signer.sign_hash_sync(&tx.signature_hash()).context("cannot sign")?;
    let raw = TxEnvelope::from(tx.into_signed(signature)).encoded_2718();
    Ok(Signed { raw, sender, nonce, to: to.to().copied() })
}

/// Fee cap and priority fee, in wei for a unit of gas.
pub(super) fn fees(
    base_fee: u64,
    max_fee: Option<u128>,
    priority_fee: Option<u128>,
) -> anyhow::Result<(u128, u128)> {
    let highest = max_fee.unwrap_or(u128::MAX);
    let priority_fee = priority_fee.unwrap_or(PRIORITY_FEE.min(highest));
    let max_fee = max_fee.unwrap_or((2 * u128::from(base_fee)).saturating_add(priority_fee));
    let show = |price: u128| amount::show(U256::from(price));
    ensure!(
        priority_fee <= max_fee,
        "--priority-fee {} is above --max-fee {}",
        show(priority_fee),
        show(max_fee)
    );
    Ok((max_fee, priority_fee))
}

/// Its receipt, as far as was waited for.
pub(super) async fn send(
    client: &Client,
    raw: &[u8],
    args: &FollowingArgs,
) -> anyhow::Result<TransactionReceipt> {
    let hash = client.submit(raw).await?;
    match args.wait {
        Wait::None => Ok(TransactionReceipt { hash: client::bytes(hash.as_slice()), ..pending() }),
        Wait::Executed | Wait::Final => follow(client, hash, args)
            .await
            .with_context(|| format!("transaction {hash} was taken; see `atoll receipt {hash}`")),
    }
}

fn tell(
    report: &ReceiptReport,
    receipt: &TransactionReceipt,
    args: &FollowingArgs,
) -> anyhow::Result<()> {
    show::print(report, args.json)?;
    let hash = report.hash();
    ensure!(
        has_come(receipt, args.wait.wire()),
        "transaction {hash} was taken and is still {} after {} s: go on waiting with `atoll receipt \
         {hash} --wait final`",
        report.finality(),
        args.timeout
    );
    report.check()
}

async fn follow(
    client: &Client,
    hash: B256,
    args: &FollowingArgs,
) -> anyhow::Result<TransactionReceipt> {
    let time = Duration::from_secs(args.timeout);
    let receipt = client.receipt(hash, args.wait.wire(), time, true);
    tokio::pin!(receipt);
    match tokio::time::timeout(QUIET_TIME, &mut receipt).await {
        Ok(receipt) => receipt,
        Err(_) => {
            if !args.json {
                eprintln!("sent {hash}, waiting for up to {} s", args.timeout);
            }
            receipt.await
        }
    }
}

fn pending() -> TransactionReceipt {
    use atoll_wire::v1::TransactionFinality::Pending;
    TransactionReceipt { finality: Pending.into(), ..Default::default() }
}
