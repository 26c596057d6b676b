//! What stands in the tree, and how it is hashed.

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// Keccak-256 of no code.
const KECCAK_EMPTY: Hash = [
    0xc5, 0xd2, 0x46, 0x01, 0x86, 0xf7, 0x23, 0x3c, 0x92, 0x7e, 0x7d, 0xb2, 0xdc, 0xc7, 0x03, 0xc0,
    0xe5, 0x00, 0xb6, 0x53, 0xca, 0x82, 0x27, 0x3b, 0x7b, 0xfa, 0xd8, 0x04, 0x5d, 0x85, 0xa4, 0x70,
];

/// What is hashed: each kind with a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    Key,
    Value,
    Leaf,
    Inner,
}

impl Domain {
    /// The key of the kind: its name, with zeros up to 32 bytes.
    pub const fn key(self) -> &'static Hash {
        match self {
            Self::Key => b"atoll/tree/1 key\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            Self::Value => b"atoll/tree/1 value\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            Self::Leaf => b"atoll/tree/1 leaf\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            Self::Inner => b"atoll/tree/1 inner\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        }
    }

    fn hash(self, bytes: &[u8]) -> Hash {
        *blake3::keyed_hash(self.key(), bytes).as_bytes()
    }
}

/// One cell of the state, as the nodes name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Nonce and balance of an account.
    Basic([u8; 20]),
    /// Code hash and incarnation of an account. An incarnation ends when the account is destroyed,
    /// which voids its slots.
    Code([u8; 20]),
    /// A storage slot of one incarnation of a contract.
    Slot { address: [u8; 20], incarnation: u32, slot: [u8; 32] },
}

/// What a cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    Basic {
        nonce: u64,
        /// In wei, big-endian.
        balance: [u8; 32],
    },
    Code {
        /// Keccak-256 of the code.
        hash: Hash,
        incarnation: u32,
    },
    Slot([u8; 32]),
}

impl Key {
    /// Where the key stands: the hash of a byte for its kind (0 `Basic`, 1 `Code`, 2 `Slot`), the
    /// address, and for a slot the incarnation (4 bytes, big-endian) and the slot.
    pub fn hash(&self) -> Hash {
        let mut bytes = [0; 57];
        let length = match self {
            Self::Basic(address) | Self::Code(address) => {
                bytes[0] = u8::from(matches!(self, Self::Code(_)));
                bytes[1..21].copy_from_slice(address);
                21
            }
            Self::Slot { address, incarnation, slot } => {
                bytes[0] = 2;
                bytes[1..21].copy_from_slice(address);
                bytes[21..25].copy_from_slice(&incarnation.to_be_bytes());
                bytes[25..].copy_from_slice(slot);
                57
            }
        };
        Domain::Key.hash(&bytes[..length])
    }

    /// What the key holds if it is not in the tree.
    pub const fn default_value(&self) -> Value {
        match self {
            Self::Basic(_) => Value::Basic { nonce: 0, balance: [0; 32] },
            Self::Code(_) => Value::Code { hash: KECCAK_EMPTY, incarnation: 0 },
            Self::Slot { .. } => Value::Slot([0; 32]),
        }
    }

    /// Whether `value` is of the key's kind.
    pub const fn holds(&self, value: &Value) -> bool {
        matches!(
            (self, value),
            (Self::Basic(_), Value::Basic { .. })
                | (Self::Code(_), Value::Code { .. })
                | (Self::Slot { .. }, Value::Slot(_))
        )
    }
}

impl Value {
    /// The hash of a byte for its kind, as in [`Key::hash`], and its fields in order: the nonce as 8
    /// bytes, the incarnation as 4, big-endian.
    pub fn hash(&self) -> Hash {
        let mut bytes = [0; 41];
        let length = match self {
            Self::Basic { nonce, balance } => {
                bytes[1..9].copy_from_slice(&nonce.to_be_bytes());
                bytes[9..].copy_from_slice(balance);
                41
            }
            Self::Code { hash, incarnation } => {
                bytes[0] = 1;
                bytes[1..33].copy_from_slice(hash);
                bytes[33..37].copy_from_slice(&incarnation.to_be_bytes());
                37
            }
            Self::Slot(word) => {
                bytes[0] = 2;
                bytes[1..33].copy_from_slice(word);
                33
            }
        };
        Domain::Value.hash(&bytes[..length])
    }
}

fn pair(domain: Domain, first: &Hash, second: &Hash) -> Hash {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(first);
    bytes[32..].copy_from_slice(second);
    domain.hash(&bytes)
}

/// The hash of a subtree with one key.
pub fn leaf(key_hash: &Hash, value_hash: &Hash) -> Hash {
    pair(Domain::Leaf, key_hash, value_hash)
}

/// The hash of a subtree with two keys or more. One side may be [`EMPTY`](crate::EMPTY).
pub fn inner(left: &Hash, right: &Hash) -> Hash {
    pair(Domain::Inner, left, right)
}
