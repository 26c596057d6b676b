//! `GetProof`.

use atoll_api::state::{Prove, ProveReply, ProvenCell};
use atoll_fabric::Context;
use atoll_types::{BeaconBlock, StateKey, StateValue, U256};
use atoll_wire::v1::{GetProofRequest, GetProofResponse, ProofBlock, SlotProof, proof_block};
use bytes::Bytes;
use tonic::Status;

use crate::convert;
use crate::query::{Queries, other_keys, status_of};

impl Queries {
    pub async fn prove(
        &self,
        request: GetProofRequest,
        context: Context,
    ) -> Result<GetProofResponse, Status> {
        let address = convert::read_address("address", &request.address)?;
        let (found, limit) = (request.slots.len(), Prove::MAX_SLOTS);
        if found > limit {
            let message = format!("{found} slots, the limit is {limit}");
            return Err(Status::invalid_argument(message));
        }
        let slots = request.slots.iter().map(|slot| convert::read_number("slots", slot));
        let slots = slots.collect::<Result<Vec<U256>, _>>()?;
        let _place = self.place()?;
        self.check_cut(request.min_cut, &context).await?;
        let shard = self.placement.owner(&address);
        let prove = Prove { address, slots: slots.clone(), min_cut: request.min_cut };
        let reply = self.shards[usize::from(shard.0)].prove.call(context.clone(), prove).await;
        let ProveReply { root, block, cells } =
            reply.map_err(|error| status_of(&error, &context))?;
        let head = self.beacon.newest(&context).await?.block;
        let block = match block == head.number() {
            true => Some(head),
            false => self.beacon.block(block, &context).await?,
        };
        let block = block.ok_or_else(|| Status::unavailable("the beacon is behind; try again"))?;
        let mut cells = cells.into_iter();
        let (Some(basic), Some(code)) = (cells.next(), cells.next()) else {
            return Err(other_keys());
        };
        let (basic_value, code_value) = (basic.cell.1.basic(), code.cell.1.code());
        let slot = |(slot, cell): (U256, ProvenCell)| match cell.cell {
            (StateKey::Slot(_, _, found), StateValue::Slot(word)) if found == slot => {
                let (slot, value) = (convert::number(slot), convert::number(word));
                Ok(SlotProof { slot, value, proof: cell.proof.0 })
            }
            _ => Err(other_keys()),
        };
        Ok(GetProofResponse {
            shard: shard.0.into(),
            cut: root.cut,
            root: convert::hash(root.root),
            nonce: basic_value.nonce,
            balance: convert::number(basic_value.balance),
            basic_proof: basic.proof.0,
            code_hash: convert::hash(code_value.hash),
            incarnation: code_value.incarnation,
            code_proof: code.proof.0,
            slots: slots.into_iter().zip(cells).map(slot).collect::<Result<_, _>>()?,
            block: Some(block_of(&block)),
        })
    }
}

fn block_of(block: &BeaconBlock) -> ProofBlock {
    let header = block.header();
    let hash = |hash: atoll_proof::Hash| Bytes::copy_from_slice(&hash);
    let anchor = |anchor: atoll_proof::Anchor| proof_block::Anchor {
        shard: anchor.shard.into(),
        head: anchor.head,
        cut: anchor.cut,
        digest: hash(anchor.digest),
        root: anchor.root.map(|root| proof_block::Root { cut: root.cut, hash: hash(root.root) }),
    };
    ProofBlock {
        hash: hash(header.hash()),
        chain_id: header.chain_id,
        number: header.number,
        body: hash(header.body),
        anchors: header.anchors.into_iter().map(anchor).collect(),
    }
}
