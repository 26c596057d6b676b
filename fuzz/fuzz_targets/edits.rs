//! Changes to a whole file: checksums would stop random bytes at the door.

/// Three bytes an edit: a place, and what is changed there. A first byte that is odd cuts the end off.
pub fn edit(whole: &[u8], script: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let Some((first, script)) = script.split_first() else { return bytes };
    let place = |pair: &[u8], length: usize| {
        usize::from(u16::from_le_bytes([pair[0], pair[1]])) % length.max(1)
    };
    for edit in script.as_chunks::<3>().0 {
        let at = place(edit, bytes.len());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= edit[2];
        }
    }
    if first % 2 == 1
        && let Some(end) = script.first_chunk::<2>()
    {
        bytes.truncate(place(end, bytes.len()));
    }
    bytes
}
