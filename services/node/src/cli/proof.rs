//! `atoll proof`: what an account held at a settled cut, fetched and verified here.

use alloy_primitives::{Address, B256, U256, hex};
use anyhow::{Context, ensure};
use atoll_proof::{Anchor, Hash, Header, Key, Proof, StateRoot, Value, verify};
use atoll_wire::v1::{GetProofResponse, ProofBlock};
use clap::Args;
use serde_json::json;

use super::client::Client;
use super::parse::{self, typed};
use super::show::{Report, Rows};
use super::{amount, show, target::Target};

/// What `atoll proof` can be told.
#[derive(Args, Clone, Debug)]
pub struct ProofArgs {
    /// The account
    #[arg(value_parser = typed(parse::address))]
    pub address: Address,

    /// Storage slots, decimal or 0x…
    #[arg(value_parser = typed(parse::number))]
    pub slots: Vec<U256>,

    /// Prove no state older than this cut [default: the newest that a command has seen]
    #[arg(long, value_name = "CUT")]
    pub min_cut: Option<u64>,

    /// The root must stand in the beacon block with this hash, which you have from elsewhere
    #[arg(long, value_name = "HASH", value_parser = typed(parse::hash))]
    pub block_hash: Option<B256>,

    /// Print one JSON object, with all that a verifier needs
    #[arg(long)]
    pub json: bool,
}

/// Fetches proofs, verifies them and shows what they prove.
pub async fn run(args: ProofArgs, target: Target) -> anyhow::Result<()> {
    let client = Client::connect(&target).await?.with_min_cut(args.min_cut);
    let reply = client.proof(args.address, &args.slots).await?;
    let proven = Proven::verify(args.address, &args.slots, reply)
        .with_context(|| format!("the proofs that {} has sent prove nothing", client.url()))?;
    if let Some(expected) = args.block_hash {
        let (number, found) = (proven.header.number, proven.block_hash());
        ensure!(
            found == expected,
            "the root stands in beacon block {number} with hash {found}, not {expected}: ask again \
             with the hash of block {number} if you can get it from elsewhere"
        );
    }
    show::print(&proven, args.json)
}

/// What was proved.
#[derive(Clone, Debug)]
pub(super) struct Proven {
    address: Address,
    nonce: u64,
    balance: U256,
    code_hash: B256,
    slots: Vec<(U256, B256)>,
    root: StateRoot,
    header: Header,
    reply: GetProofResponse,
}

impl Proven {
    /// Every value, up to the hash of the block that holds the root.
    pub fn verify(
        address: Address,
        slots: &[U256],
        reply: GetProofResponse,
    ) -> anyhow::Result<Self> {
        let header = header(reply.block.as_ref().context("the reply names no block")?)?;
        let shard = u16::try_from(reply.shard).context("there is no such shard")?;
        let root = header.root_of(shard);
        let root = root.with_context(|| format!("the block holds no root of shard {shard}"))?;
        let check = |what: &str, key: Key, value: Value, proof: &[u8]| {
            let proof = Proof::decode(proof).with_context(|| format!("the proof of {what}"))?;
            verify(&root.root, &key, Some(&value), &proof)
                .with_context(|| format!("the proof of {what}"))
        };
        let balance = parse::reply_number("balance", &reply.balance)?;
        let code_hash = parse::reply_hash("code_hash", &reply.code_hash)?;
        let incarnation = reply.incarnation;
        let account = address.0.0;
        let basic = Value::Basic { nonce: reply.nonce, balance: balance.to_be_bytes() };
        check("nonce and balance", Key::Basic(account), basic, &reply.basic_proof)?;
        let code = Value::Code { hash: code_hash.0, incarnation };
        check("code", Key::Code(account), code, &reply.code_proof)?;
        ensure!(reply.slots.len() == slots.len(), "other slots than were asked for");
        let mut proven = Vec::with_capacity(slots.len());
        for (slot, held) in slots.iter().zip(&reply.slots) {
            let word = B256::from(parse::reply_number("value", &held.value)?);
            let key = Key::Slot { address: account, incarnation, slot: slot.to_be_bytes() };
            check(&format!("slot {slot}"), key, Value::Slot(word.0), &held.proof)?;
            proven.push((*slot, word));
        }
        let nonce = reply.nonce;
        Ok(Self { address, nonce, balance, code_hash, slots: proven, root, header, reply })
    }

    pub fn block_hash(&self) -> B256 {
        self.header.hash().into()
    }
}

fn header(block: &ProofBlock) -> anyhow::Result<Header> {
    let hash = |name: &str, bytes: &[u8]| parse::reply_hash(name, bytes).map(|hash| hash.0);
    let mut anchors = Vec::with_capacity(block.anchors.len());
    for anchor in &block.anchors {
        let root = anchor
            .root
            .as_ref()
            .map(|root| anyhow::Ok(StateRoot { cut: root.cut, root: hash("root", &root.hash)? }));
        anchors.push(Anchor {
            shard: u16::try_from(anchor.shard).context("there is no such shard")?,
            head: anchor.head,
            cut: anchor.cut,
            digest: hash("digest", &anchor.digest)?,
            root: root.transpose()?,
        });
    }
    let body: Hash = hash("body", &block.body)?;
    Ok(Header { chain_id: block.chain_id, number: block.number, body, anchors })
}

impl Report for Proven {
    fn text(&self) -> String {
        let mut rows = Rows::default();
        rows.push("address", self.address.to_string());
        rows.push("balance", amount::show(self.balance));
        rows.push("nonce", self.nonce.to_string());
        rows.push("code hash", self.code_hash.to_string());
        for (slot, word) in &self.slots {
            rows.push(format!("slot {}", super::account::slot_name(*slot)), word.to_string());
        }
        rows.push("at cut", self.root.cut.to_string());
        rows.push(
            format!("root of shard {}", self.reply.shard),
            B256::from(self.root.root).to_string(),
        );
        let Header { number, chain_id, .. } = self.header;
        rows.push("in beacon block", format!("{number} of chain {chain_id}"));
        rows.push("with hash", self.block_hash().to_string());
        format!("{}\nVerified here, if that is the hash of block {number}.", rows.text())
    }

    fn json(&self) -> serde_json::Value {
        let hash = |hash: &Hash| B256::from(*hash);
        let slots = self.slots.iter().zip(&self.reply.slots).map(|((slot, word), proven)| {
            json!({
                "number": B256::from(*slot),
                "value": word,
                "proof": hex::encode_prefixed(&proven.proof),
            })
        });
        let anchors = self.header.anchors.iter().map(|anchor| {
            json!({
                "shard": anchor.shard,
                "head": anchor.head,
                "cut": anchor.cut,
                "digest": hash(&anchor.digest),
                "root": anchor.root.map(|root| json!({ "cut": root.cut, "hash": hash(&root.root) })),
            })
        });
        json!({
            "address": self.address.to_string(),
            "shard": self.reply.shard,
            "cut": self.root.cut,
            "root": hash(&self.root.root),
            "nonce": self.nonce,
            "balance": self.balance.to_string(),
            "basic_proof": hex::encode_prefixed(&self.reply.basic_proof),
            "code_hash": self.code_hash,
            "incarnation": self.reply.incarnation,
            "code_proof": hex::encode_prefixed(&self.reply.code_proof),
            "slots": slots.collect::<Vec<_>>(),
            "block": {
                "hash": self.block_hash(),
                "chain_id": self.header.chain_id,
                "number": self.header.number,
                "body": hash(&self.header.body),
                "anchors": anchors.collect::<Vec<_>>(),
            },
        })
    }
}
