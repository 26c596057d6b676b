//! The stored form of a value: a CRC-32 of key and value, then the value.

pub(super) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(4 + value.len());
    sealed.extend_from_slice(&entry_crc(key, value).to_le_bytes());
    sealed.extend_from_slice(value);
    sealed
}

pub(super) fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, value) = sealed.split_first_chunk()?;
    (entry_crc(key, value) == u32::from_le_bytes(*crc)).then_some(value)
}

fn entry_crc(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}
