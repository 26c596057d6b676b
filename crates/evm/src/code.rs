use std::{
    collections::VecDeque,
    sync::{PoisonError, RwLock},
};

use alloy_primitives::{B256, Bytes, map::HashMap};
pub use revm::bytecode::Bytecode;

/// Code in the form in which it runs: padded, its jump destinations known. Cheap to clone; making it
/// takes time linear in the length. Takes any bytes: what looks like an EIP-7702 designator and is
/// none runs as the (invalid) opcodes that it consists of.
pub fn bytecode(raw: Bytes) -> Bytecode {
    Bytecode::new_raw_checked(raw.clone()).unwrap_or_else(|_| Bytecode::new_legacy(raw))
}

/// Code that was prepared to run, by hash, up to a limit; what came first goes first. Shared by
/// threads.
#[derive(Debug)]
pub struct CodeCache {
    limit_bytes: usize,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    codes: HashMap<B256, Bytecode>,
    order: VecDeque<B256>,
    size_bytes: usize,
}

impl CodeCache {
    /// A cache that holds code of at most `limit_bytes` bytes in all.
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, inner: RwLock::default() }
    }

    /// The code with this hash.
    pub fn get(&self, hash: &B256) -> Option<Bytecode> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.codes.get(hash).cloned()
    }

    /// Prepares code and keeps it under its hash. Code larger than the whole cache is not kept.
    pub fn insert(&self, raw: Bytes) -> Bytecode {
        let code = bytecode(raw);
        let hash = code.hash_slow();
        if code.len() > self.limit_bytes {
            return code;
        }
        let mut guard = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *guard;
        if let Some(known) = inner.codes.get(&hash) {
            return known.clone();
        }
        while inner.size_bytes + code.len() > self.limit_bytes {
            let Some(oldest) = inner.order.pop_front() else {
                break;
            };
            let gone = inner.codes.remove(&oldest);
            inner.size_bytes -= gone.map_or(0, |code| code.len());
        }
        inner.size_bytes += code.len();
        inner.order.push_back(hash);
        inner.codes.insert(hash, code.clone());
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_to_its_limit_and_drops_the_oldest() {
        let cache = CodeCache::new(100);
        let code = |byte: u8| Bytes::from(vec![byte; 40]);
        let hashes: Vec<_> = (1..=3).map(|byte| cache.insert(code(byte)).hash_slow()).collect();
        assert_eq!(cache.get(&hashes[0]), None);
        assert_eq!(cache.get(&hashes[1]), Some(bytecode(code(2))));
        assert_eq!(cache.get(&hashes[2]), Some(bytecode(code(3))));
        let large = cache.insert(Bytes::from(vec![4; 101]));
        assert_eq!(cache.get(&large.hash_slow()), None);
        assert!(cache.get(&hashes[2]).is_some());
    }

    #[test]
    fn any_bytes_are_code() {
        for raw in [&[][..], &[0xef, 0x01], &[0xef, 0x01, 0x00, 0x05], &[0x5b]] {
            let raw = Bytes::copy_from_slice(raw);
            assert_eq!(bytecode(raw.clone()).original_bytes(), raw);
        }
    }
}
