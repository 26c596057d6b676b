//! One number for a state: a hash of what it serialises to, in an order of its own and without
//! what only retells history.
//!
//! Two things stand between the state machines and a set of visited states. Their maps are hashed,
//! so that one state may be iterated in many orders: here, entries of a map are hashed one by one
//! and summed. And every shard block, cut and beacon block has a digest of all before it, so that
//! hardly two paths would ever meet: those fields are left out. They are compared in one way only,
//! "does this extend what I have", which in a world with one beacon and one log a shard is always
//! so. Digests of group results stay: they are compared, and may differ.

use std::hash::{DefaultHasher, Hasher};

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// Fields left out, as (struct, field). Constants are, too: they tell no two states apart.
const LEFT_OUT: &[(&str, &str)] = &[
    ("Anchor", "digest"),
    ("Group", "env"),
    ("Owner", "beacon"),
    ("Owner", "config"),
    ("Owner", "digest"),
    ("Owner", "env"),
    ("Owner", "hashes"),
    // The newest block's content is in the model's history of the beacon.
    ("Planner", "block"),
    ("Planner", "config"),
    ("Planner", "hash"),
    // A set, of which it is written in any order what `waiting` says as well.
    ("Planner", "known"),
    ("Planner", "priced_gas"),
];

/// The hash of a value. Equal states have equal hashes, whatever order their maps have.
pub fn fingerprint<T: Serialize + ?Sized>(value: &T) -> u64 {
    let mut hasher = Canonical(DefaultHasher::new());
    match value.serialize(&mut hasher) {
        Ok(()) => hasher.0.finish(),
        Err(never) => match never.0 {},
    }
}

/// The hash of several hashes in their order.
pub fn combine(parts: impl IntoIterator<Item = u64>) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.into_iter().for_each(|part| hasher.write_u64(part));
    hasher.finish()
}

struct Canonical(DefaultHasher);

/// Hashing cannot fail.
#[derive(Debug, thiserror::Error)]
#[error("hashing cannot fail")]
struct Never(std::convert::Infallible);

impl serde::ser::Error for Never {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        // Only a `Serialize` written by hand can come here, and none of the types hashed has one
        // that refuses a value.
        panic!("a state does not serialise: {message}")
    }
}

/// Entries of a map, summed.
struct Entries<'a> {
    to: &'a mut Canonical,
    key: u64,
    sum: u64,
    count: u64,
}

/// Fields of a struct.
struct Fields<'a> {
    to: &'a mut Canonical,
    name: &'static str,
}

macro_rules! integers {
    ($($method:ident($type:ty) => $write:ident),* $(,)?) => {
        $(fn $method(self, value: $type) -> Result<(), Never> {
            self.0.$write(value);
            Ok(())
        })*
    };
}

impl<'a> Serializer for &'a mut Canonical {
    type Ok = ();
    type Error = Never;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Entries<'a>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Fields<'a>;

    integers! {
        serialize_i8(i8) => write_i8, serialize_i16(i16) => write_i16,
        serialize_i32(i32) => write_i32, serialize_i64(i64) => write_i64,
        serialize_i128(i128) => write_i128,
        serialize_u8(u8) => write_u8, serialize_u16(u16) => write_u16,
        serialize_u32(u32) => write_u32, serialize_u64(u64) => write_u64,
        serialize_u128(u128) => write_u128,
    }

    fn serialize_bool(self, value: bool) -> Result<(), Never> {
        self.serialize_u8(u8::from(value))
    }

    fn serialize_f32(self, value: f32) -> Result<(), Never> {
        self.serialize_u32(value.to_bits())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Never> {
        self.serialize_u64(value.to_bits())
    }

    fn serialize_char(self, value: char) -> Result<(), Never> {
        self.serialize_u32(u32::from(value))
    }

    fn serialize_str(self, value: &str) -> Result<(), Never> {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Never> {
        self.0.write_usize(value.len());
        self.0.write(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Never> {
        self.serialize_u8(0)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Never> {
        self.0.write_u8(1);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Never> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Never> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
    ) -> Result<(), Never> {
        self.serialize_u32(index)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Never> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Never> {
        self.0.write_u32(index);
        value.serialize(self)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self, Never> {
        self.0.write_usize(length.unwrap_or(usize::MAX));
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Never> {
        self.0.write_u32(index);
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'a>, Never> {
        Ok(Entries { to: self, key: 0, sum: 0, count: 0 })
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Fields<'a>, Never> {
        Ok(Fields { to: self, name })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Fields<'a>, Never> {
        self.0.write_u32(index);
        Ok(Fields { to: self, name })
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! elements {
    ($($trait:ident::$method:ident),* $(,)?) => {
        $(impl $trait for &mut Canonical {
            type Ok = ();
            type Error = Never;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Never> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), Never> {
                Ok(())
            }
        })*
    };
}

elements! {
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field,
}

impl SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = Never;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Never> {
        self.key = fingerprint(key);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Never> {
        self.sum = self.sum.wrapping_add(combine([self.key, fingerprint(value)]));
        self.count += 1;
        Ok(())
    }

    fn end(self) -> Result<(), Never> {
        self.to.0.write_u64(self.count);
        self.to.0.write_u64(self.sum);
        Ok(())
    }
}

macro_rules! fields {
    ($($trait:ident),*) => {
        $(impl $trait for Fields<'_> {
            type Ok = ();
            type Error = Never;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), Never> {
                if LEFT_OUT.contains(&(self.name, key)) {
                    return Ok(());
                }
                value.serialize(&mut *self.to)
            }

            fn end(self) -> Result<(), Never> {
                Ok(())
            }
        })*
    };
}

fields!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::fingerprint;

    #[test]
    fn a_map_has_one_hash_in_every_order() {
        let one: HashMap<u64, u64> = (0..100).map(|n| (n, n * n)).collect();
        let other: HashMap<u64, u64> = (0..100).rev().map(|n| (n, n * n)).collect();
        assert_eq!(fingerprint(&one), fingerprint(&other));
        let third: HashMap<u64, u64> = (0..100).map(|n| (n, n * n + n / 99)).collect();
        assert_ne!(fingerprint(&one), fingerprint(&third));
    }
}
