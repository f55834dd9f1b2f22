//! The binary form of jsonb (PostgreSQL's utils/jsonb.h). Tables store it, so it does not change
//! between versions of PostgreSQL.
//!
//! An object is a header, an entry for each name and then for each value, the bytes of the names
//! and then those of the values. An entry holds a type and a length; every 32nd entry holds the end
//! offset of its data instead of the length. Numbers and containers are aligned to four bytes.

use uuid::Uuid;

/// The value of a member of an object.
pub enum Value<'a> {
    /// null.
    Null,
    /// true or false.
    Bool(bool),
    /// A string, in the encoding of the database.
    Text(&'a [u8]),
    /// An ASCII string.
    Owned(String),
    /// A UUID, written as a string in canonical form.
    Uuid(Uuid),
    /// An array of strings, `None` for null.
    Texts(&'a [Option<&'a [u8]>]),
    /// A number: a datum of type numeric, including its header.
    Numeric(&'a [u8]),
    /// An object in binary form, as [`object`] returns it.
    Object(&'a [u8]),
}

/// Name and value.
pub type Member<'a> = (&'a str, Value<'a>);

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(text: &'a [u8]) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.as_bytes())
    }
}

impl From<Uuid> for Value<'_> {
    fn from(uuid: Uuid) -> Self {
        Self::Uuid(uuid)
    }
}

/// The object is too long for the binary form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too long for a jsonb")]
pub struct TooLong;

const IS_ARRAY: u32 = 0x4000_0000;
const IS_OBJECT: u32 = 0x2000_0000;

const STRING: u32 = 0x0000_0000;
const NUMERIC: u32 = 0x1000_0000;
const FALSE: u32 = 0x2000_0000;
const TRUE: u32 = 0x3000_0000;
const NULL: u32 = 0x4000_0000;
const CONTAINER: u32 = 0x5000_0000;
const IS_END: u32 = 0x8000_0000;
/// The bits of an entry that hold a length.
const LONGEST: usize = 0x0fff_ffff;
/// Every entry at a multiple of this holds an end offset (`JB_OFFSET_STRIDE`).
const STRIDE: usize = 32;

/// Encodes an object, without the varlena header. The names must be distinct.
///
/// # Errors
/// `TooLong` if it takes 256 MiB or more.
pub fn object(members: &mut [Member<'_>]) -> Result<Vec<u8>, TooLong> {
    // In which order names are looked for (lengthCompareJsonbStringValue).
    members.sort_unstable_by_key(|(name, _)| (name.len(), *name));
    let mut bytes = Vec::with_capacity(1024);
    let mut entries = Entries::begin(&mut bytes, IS_OBJECT, members.len(), 2 * members.len());
    for (name, _) in members.iter() {
        bytes.extend_from_slice(name.as_bytes());
        entries.add(&mut bytes, STRING);
    }
    for (_, value) in members.iter() {
        let kind = append(&mut bytes, value);
        entries.add(&mut bytes, kind);
    }
    if bytes.len() > LONGEST { Err(TooLong) } else { Ok(bytes) }
}

/// Appends the bytes of a value and returns its type bits.
fn append(bytes: &mut Vec<u8>, value: &Value<'_>) -> u32 {
    match value {
        Value::Null => NULL,
        Value::Bool(false) => FALSE,
        Value::Bool(true) => TRUE,
        Value::Text(text) => {
            bytes.extend_from_slice(text);
            STRING
        }
        Value::Owned(text) => {
            bytes.extend_from_slice(text.as_bytes());
            STRING
        }
        Value::Uuid(uuid) => {
            let mut buffer = Uuid::encode_buffer();
            bytes.extend_from_slice(uuid.hyphenated().encode_lower(&mut buffer).as_bytes());
            STRING
        }
        Value::Texts(texts) => {
            align(bytes);
            let mut entries = Entries::begin(bytes, IS_ARRAY, texts.len(), texts.len());
            for text in *texts {
                bytes.extend_from_slice(text.unwrap_or_default());
                entries.add(bytes, if text.is_some() { STRING } else { NULL });
            }
            CONTAINER
        }
        Value::Numeric(numeric) => {
            align(bytes);
            bytes.extend_from_slice(numeric);
            NUMERIC
        }
        Value::Object(object) => {
            align(bytes);
            bytes.extend_from_slice(object);
            CONTAINER
        }
    }
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The entries of a container, filled in as their data is appended.
struct Entries {
    /// Offset of the next entry.
    next: usize,
    number: usize,
    /// Offset where the data begins, and where the data of the last entry ended.
    begin: usize,
    end: usize,
}

impl Entries {
    /// Appends the header of a container and reserves its `entries`. `count` is the number of
    /// elements or pairs.
    fn begin(bytes: &mut Vec<u8>, kind: u32, count: usize, entries: usize) -> Self {
        let next = bytes.len() + 4;
        let begin = next + 4 * entries;
        bytes.extend_from_slice(&(kind | length(count)).to_ne_bytes());
        bytes.resize(begin, 0);
        Self { next, number: 0, begin, end: begin }
    }

    /// Writes the entry of the data that was appended last.
    fn add(&mut self, bytes: &mut [u8], kind: u32) {
        let entry = if self.number.is_multiple_of(STRIDE) {
            IS_END | length(bytes.len() - self.begin)
        } else {
            length(bytes.len() - self.end)
        };
        bytes[self.next..self.next + 4].copy_from_slice(&(kind | entry).to_ne_bytes());
        self.next += 4;
        self.number += 1;
        self.end = bytes.len();
    }
}

/// A length, capped to the bits that hold it: [`object`] refuses longer results at the end.
fn length(length: usize) -> u32 {
    u32::try_from(length.min(LONGEST)).unwrap_or(0)
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    fn hex(members: &mut [Member<'_>]) -> Option<String> {
        object(members).ok().map(|bytes| base16ct::lower::encode_string(&bytes))
    }

    /// The bytes that PostgreSQL 15 stores for the same JSON text, read with pageinspect's
    /// `heap_page_items`, without the varlena header.
    #[test]
    fn objects_match_the_bytes_that_postgresql_stores() {
        let empty = "00000020";
        let scalars = "030000200100008001000000040000000000004000000030040000006162\
            6c6f6e6774657874";
        let nested = "03000020010000800100000001000000\
            0e0000500b0000100e000050616e6f00020000400100008000000040780000002000000000800700\
            0100002001000080010000006b76";
        assert_eq!(hex(&mut []).as_deref(), Some(empty));
        assert_eq!(
            hex(&mut [
                ("b", Value::Bool(true)),
                ("long", Value::Text(b"text")),
                ("a", Value::Null)
            ])
            .as_deref(),
            Some(scalars)
        );
        let seven = [0x20, 0, 0, 0, 0, 0x80, 7, 0];
        let inner = object(&mut [("k", Value::Text(b"v"))]).unwrap_or_default();
        assert_eq!(
            hex(&mut [
                ("o", Value::Object(&inner)),
                ("n", Value::Numeric(&seven)),
                ("a", Value::Texts(&[Some(b"x"), None])),
            ])
            .as_deref(),
            Some(nested)
        );
    }

    /// `jsonb_object_agg('k' || to_char(n, 'FM00'), 'v')` of 20 numbers.
    #[test]
    fn every_32nd_entry_holds_an_end_offset() {
        let names: Vec<_> = (1..=20).map(|n| format!("k{n:02}")).collect();
        let mut members: Vec<_> =
            names.iter().map(|name| (name.as_str(), Value::Text(b"v"))).collect();
        let entries = ["03000080", &"03000000".repeat(19), &"01000000".repeat(12), "49000080"];
        let rest =
            ["01000000".repeat(7), base16ct::lower::encode_string(names.concat().as_bytes())];
        let expected = ["14000020", &entries.concat(), &rest.concat(), &"76".repeat(20)].concat();
        assert_eq!(hex(&mut members), Some(expected));
    }

    #[test]
    fn an_object_that_is_too_long_is_refused() {
        let long = vec![b'x'; LONGEST];
        assert_eq!(object(&mut [("k", Value::Text(&long))]), Err(TooLong));
        let many = vec![None; LONGEST / 4];
        assert_eq!(object(&mut [("k", Value::Texts(&many))]), Err(TooLong));
    }
}
