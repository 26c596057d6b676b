//! Acknowledgements, packed by round.

use atoll_fabric::Malformed;
use atoll_types::{B256, GroupAck, GroupId};
use atoll_wire::v1::{GroupAcks, group_acks::Detail};
use bytes::{BufMut as _, BytesMut};

use super::{MAX_SMALL_ITEMS, list};

/// Those of one round that follow one another are one message.
pub fn encode(acks: Vec<GroupAck>) -> Vec<GroupAcks> {
    let mut runs = Vec::new();
    let mut acks = acks.into_iter().peekable();
    while let Some(first) = acks.peek() {
        let round = first.group.round;
        let mut run = GroupAcks { round, ..GroupAcks::default() };
        let mut digests = BytesMut::new();
        while let Some(ack) = acks.next_if(|ack| ack.group.round == round) {
            let GroupAck { group, digest, sources, late } = ack;
            if !sources.is_empty() || !late.is_empty() {
                let at = run.indices.len() as u32;
                let (sources, late) = (list::encode(sources), list::encode(late));
                run.details.push(Detail { at, sources, late });
            }
            run.indices.push(group.index);
            digests.put_slice(digest.as_slice());
        }
        run.digests = digests.freeze();
        runs.push(run);
    }
    runs
}

pub fn decode(runs: Vec<GroupAcks>, field: &str) -> Result<Vec<GroupAck>, Malformed> {
    let count: usize = runs.iter().map(|run| run.indices.len()).sum();
    if count > MAX_SMALL_ITEMS {
        let expected = format!("at most {MAX_SMALL_ITEMS} acknowledgements, not {count}");
        return Err(Malformed::new(field, expected));
    }
    let mut acks = Vec::with_capacity(count);
    for (index, run) in runs.into_iter().enumerate() {
        let within = |malformed: Malformed| malformed.within(&format!("[{index}]")).within(field);
        unpack(run, &mut acks).map_err(within)?;
    }
    Ok(acks)
}

fn unpack(run: GroupAcks, acks: &mut Vec<GroupAck>) -> Result<(), Malformed> {
    let GroupAcks { round, indices, digests, details } = run;
    let (digests, rest) = digests.as_chunks::<32>();
    if digests.len() != indices.len() || !rest.is_empty() {
        return Err(Malformed::new("digests", "32 bytes long for each index"));
    }
    let first = acks.len();
    acks.extend(indices.into_iter().zip(digests).map(|(index, digest)| GroupAck {
        group: GroupId { round, index },
        digest: B256::from(digest),
        sources: Vec::new(),
        late: Vec::new(),
    }));
    if !details.is_sorted_by(|a, b| a.at < b.at) {
        return Err(Malformed::new("details", "ascending, without repetition"));
    }
    for Detail { at, sources, late } in details {
        let ack = acks[first..].get_mut(at as usize);
        let ack = ack.ok_or_else(|| Malformed::new("details.at", "the place of an index"))?;
        ack.sources = list::decode(sources, "details.sources")?;
        ack.late = list::decode(late, "details.late")?;
        if ack.sources.is_empty() && ack.late.is_empty() {
            return Err(Malformed::new("details", "of acknowledgements that say something"));
        }
    }
    Ok(())
}
