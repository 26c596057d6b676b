//! What a key costs in processor time of this thread: `cargo run --release -p atoll-tree --example measure [KEYS...]`. Each key changed
//! is hashed, and so is its value, as a shard does it.

use std::hint::black_box;

use anyhow::Context;
use atoll_meter::thread_cpu_ns;
use atoll_proof::{Key, Value, verify};
use atoll_tree::{Change, Config, FileScratch, Tree};

/// SplitMix64 (Steele, Lea, Flood 2014).
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn key(number: u64) -> Key {
    let mut address = [0; 20];
    address[..8].copy_from_slice(&number.to_be_bytes());
    Key::Basic(address)
}

fn value(number: u64) -> Value {
    let mut balance = [0; 32];
    balance[24..].copy_from_slice(&number.to_be_bytes());
    Value::Basic { nonce: number, balance }
}

fn change(number: u64, nonce: u64) -> Change {
    Change { key: key(number).hash(), value: Some(value(nonce).hash()) }
}

/// Microseconds of processor time for each of `count`.
fn each(began: u64, count: u64) -> f64 {
    (thread_cpu_ns() - began) as f64 / 1e3 / count as f64
}

fn one(keys: u64, page_leaves: usize, in_memory: f64) -> anyhow::Result<()> {
    let pages = (keys as f64 * in_memory / (page_leaves as f64 * 0.7)) as usize;
    let resident_pages = if in_memory == 1.0 { usize::MAX } else { pages };
    let scratch = FileScratch::new(tempfile::tempfile()?);
    let mut tree = Tree::new(Config { page_leaves, resident_pages }, Box::new(scratch))?;
    let began = thread_cpu_ns();
    for chunk in 0..keys.div_ceil(100_000) {
        let numbers = 100_000 * chunk..keys.min(100_000 * (chunk + 1));
        tree.update(numbers.map(|number| change(number, 1)).collect())?;
    }
    let load = each(began, keys);
    let mut batches = Vec::new();
    for batch in [200, 20_000_u64] {
        let rounds = (400_000 / batch).min(200);
        let began = thread_cpu_ns();
        for round in 0..rounds {
            let numbers = (0..batch).map(|at| mix(round * batch + at) % keys);
            tree.update(numbers.map(|number| change(number, round + 2)).collect())?;
        }
        batches.push(each(began, rounds * batch));
    }
    let began = thread_cpu_ns();
    let proofs: Vec<_> = (0..1_000)
        .map(|at| tree.prove(&key(mix(at) % (2 * keys)).hash()))
        .collect::<Result<_, _>>()?;
    let prove = each(began, 1_000);
    let siblings = proofs.iter().map(|proof| proof.siblings.len()).sum::<usize>() / proofs.len();
    let root = tree.root();
    let began = thread_cpu_ns();
    for (at, proof) in (0..).zip(&proofs) {
        let key = key(mix(at) % (2 * keys));
        let absent = verify(&root, &key, None, proof).is_ok();
        black_box(absent);
    }
    let verify = each(began, 1_000);
    let memory = tree.memory();
    println!(
        "{keys:>9} {page_leaves:>5} {:>4.0}% {load:>6.2} {:>6.2} {:>6.2} {:>6.1} {:>6.1} {prove:>7.1} {verify:>7.1} {siblings:>5}",
        100.0 * in_memory,
        batches[0],
        batches[1],
        memory.upper as f64 / keys as f64,
        memory.leaves as f64 / keys as f64,
    );
    Ok(())
}

/// Adds and takes away values in a lattice hash: 1,024 sums of 16 bits (Bellare, Micciancio 1997;
/// LtHash, Lewi et al. 2019). No proofs.
fn lattice() {
    let mut sums = [0_u16; 1_024];
    let mut bytes = [0; 2_048];
    let mut add = |number: u64, nonce: u64, sums: &mut [u16; 1_024], away: bool| {
        let change = change(number, nonce);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&change.key).update(&change.value.unwrap_or_default());
        hasher.finalize_xof().fill(&mut bytes);
        for (sum, word) in sums.iter_mut().zip(bytes.as_chunks::<2>().0) {
            let word = u16::from_le_bytes(*word);
            *sum = if away { sum.wrapping_sub(word) } else { sum.wrapping_add(word) };
        }
    };
    let began = thread_cpu_ns();
    for number in 0..200_000 {
        add(number, 1, &mut sums, true);
        add(number, 2, &mut sums, false);
    }
    black_box(sums);
    println!("lattice hash, old and new value: {:.2} us", each(began, 200_000));
}

fn main() -> anyhow::Result<()> {
    let asked: Vec<u64> = std::env::args()
        .skip(1)
        .map(|count| count.parse().context("a number of keys"))
        .collect::<Result<_, _>>()?;
    let sizes = if asked.is_empty() { vec![10_000, 1_000_000, 10_000_000] } else { asked };
    lattice();
    println!("us a key to load, in batches of 200, of 20,000; bytes a key above pages, in pages;");
    println!("us to prove, to verify; siblings. Page size, share of pages in memory:");
    for keys in sizes {
        for page_leaves in [2, 8, 16, 32] {
            one(keys, page_leaves, 1.0)?;
        }
        for page_leaves in [8, 16, 32] {
            one(keys, page_leaves, 0.1)?;
        }
    }
    Ok(())
}
