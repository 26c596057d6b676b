//! Damage to encoded messages.

use prost::encoding::{decode_varint, encode_varint};
use rand::{Rng, rngs::StdRng};

/// Damage to bytes, whatever they mean. Mostly what is left is no protobuf.
pub fn bytes(mut bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    if bytes.is_empty() || rng.random_ratio(1, 20) {
        bytes = vec![0; rng.random_range(1..64)];
        rng.fill(&mut bytes[..]);
    }
    let at = rng.random_range(0..bytes.len());
    match rng.random_range(0..3) {
        0 => bytes.truncate(at),
        1 => drop(bytes.remove(at)),
        _ => bytes[at] ^= 1 << rng.random_range(0..8),
    }
    bytes
}

/// Damage to one field, at any depth, after which the message is still protobuf: mostly what is
/// left has to be refused by whoever knows what it means.
pub fn field(bytes: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let Some(mut fields) = split(bytes).filter(|fields| !fields.is_empty()) else {
        return resized(bytes, rng);
    };
    let at = rng.random_range(0..fields.len());
    match rng.random_range(0..8) {
        0 => drop(fields.remove(at)),
        1 => fields[at].0 ^= 8 << rng.random_range(0..3),
        _ => match &mut fields[at].1 {
            Payload::Varint(value) => *value ^= 1 << rng.random_range(0..64),
            Payload::Fixed(word) => word[rng.random_range(0..8)] ^= 1,
            Payload::Bytes(inner) => *inner = field(inner, rng),
        },
    }
    join(&fields)
}

fn resized(bytes: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(rng.random_range(0..bytes.len() + 40), 0x5a);
    bytes
}

enum Payload {
    Varint(u64),
    Fixed([u8; 8]),
    Bytes(Vec<u8>),
}

/// Tags and payloads; `None` if the bytes are not a message.
fn split(mut bytes: &[u8]) -> Option<Vec<(u64, Payload)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = decode_varint(&mut bytes).ok()?;
        let payload = match (tag >> 3, tag & 7) {
            (1..16, 0) => Payload::Varint(decode_varint(&mut bytes).ok()?),
            (1..16, 1) => Payload::Fixed(*bytes.split_off(..8)?.first_chunk()?),
            (1..16, 2) => {
                let length = decode_varint(&mut bytes).ok()?;
                let length = usize::try_from(length).ok()?;
                Payload::Bytes(bytes.split_off(..length)?.to_vec())
            }
            _ => return None,
        };
        fields.push((tag, payload));
    }
    Some(fields)
}

fn join(fields: &[(u64, Payload)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, payload) in fields {
        encode_varint(*tag, &mut bytes);
        match payload {
            Payload::Varint(value) => encode_varint(*value, &mut bytes),
            Payload::Fixed(word) => bytes.extend(word),
            Payload::Bytes(inner) => {
                encode_varint(inner.len() as u64, &mut bytes);
                bytes.extend(inner);
            }
        }
    }
    bytes
}
