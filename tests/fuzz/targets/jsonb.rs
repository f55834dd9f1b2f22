//! An object in the binary form reads back, by the rules of utils/jsonb.h, as what it was made of.
#![no_main]

use std::collections::BTreeMap;

use api_key::core::jsonb::{Value, object};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug, Clone, PartialEq)]
enum Model {
    Null,
    Bool(bool),
    Text(Vec<u8>),
    Texts(Vec<Option<Vec<u8>>>),
    /// The text of a numeric is not looked at: any four bytes do.
    Numeric([u8; 4]),
    Object(BTreeMap<String, Model>),
}

fn write(members: &BTreeMap<String, Model>) -> Vec<u8> {
    let inner: Vec<_> = members
        .values()
        .map(|value| match value {
            Model::Object(members) => write(members),
            _ => Vec::new(),
        })
        .collect();
    let texts: Vec<Vec<_>> = members
        .values()
        .map(|value| match value {
            Model::Texts(texts) => texts.iter().map(Option::as_deref).collect(),
            _ => Vec::new(),
        })
        .collect();
    let mut all: Vec<_> = members
        .iter()
        .zip(inner.iter().zip(&texts))
        .map(|((name, value), (inner, texts))| {
            (
                name.as_str(),
                match value {
                    Model::Null => Value::Null,
                    Model::Bool(value) => Value::Bool(*value),
                    Model::Text(text) => Value::Text(text),
                    Model::Texts(_) => Value::Texts(texts),
                    Model::Numeric(bytes) => Value::Numeric(bytes),
                    Model::Object(_) => Value::Object(inner),
                },
            )
        })
        .collect();
    object(&mut all).expect("short enough")
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The elements of the container at the beginning of `bytes`: their types, and what is of them. Each
/// is found as PostgreSQL finds it, from the last entry before it that tells an end.
fn elements(bytes: &[u8]) -> Vec<(u32, &[u8])> {
    let header = word(bytes, 0);
    let pairs = header & 0x2000_0000 != 0;
    assert!(pairs != (header & 0x4000_0000 != 0), "an object or an array");
    let count = (header & 0x0fff_ffff) as usize * if pairs { 2 } else { 1 };
    let begin = 4 + 4 * count;
    let entry = |n: usize| word(bytes, 4 + 4 * n);
    let end = |n: usize| {
        let mut end = 0;
        for at in (0..=n).rev() {
            end += (entry(at) & 0x0fff_ffff) as usize;
            if entry(at) & 0x8000_0000 != 0 {
                break;
            }
        }
        begin + end
    };
    (0..count)
        .map(|n| {
            let from = if n == 0 { begin } else { end(n - 1) };
            (entry(n) & 0x7000_0000, &bytes[from..end(n)])
        })
        .collect()
}

fn read(bytes: &[u8]) -> BTreeMap<String, Model> {
    let elements = elements(bytes);
    let (names, values) = elements.split_at(elements.len() / 2);
    // In the order of the binary search for a name (lengthCompareJsonbStringValue).
    assert!(names.is_sorted_by_key(|(_, name)| (name.len(), *name)));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    names
        .iter()
        .zip(values)
        .map(|((kind, name), value)| {
            assert_eq!(*kind, 0, "a name is a string");
            (text(name), value_of(bytes, value.0, value.1))
        })
        .collect()
}

/// Containers and numbers are aligned to four bytes, counted from the beginning of what they are in.
fn value_of(whole: &[u8], kind: u32, bytes: &[u8]) -> Model {
    let offset = bytes.as_ptr() as usize - whole.as_ptr() as usize;
    let aligned = &bytes[(offset.next_multiple_of(4) - offset).min(bytes.len())..];
    match kind {
        0x4000_0000 => Model::Null,
        0x2000_0000 => Model::Bool(false),
        0x3000_0000 => Model::Bool(true),
        0 => Model::Text(bytes.to_vec()),
        0x1000_0000 => Model::Numeric(aligned.try_into().expect("four bytes")),
        _ if word(aligned, 0) & 0x2000_0000 != 0 => Model::Object(read(aligned)),
        _ => Model::Texts(
            elements(aligned)
                .into_iter()
                .map(|(kind, text)| (kind == 0).then(|| text.to_vec()))
                .collect(),
        ),
    }
}

fuzz_target!(|members: BTreeMap<String, Model>| {
    assert_eq!(read(&write(&members)), members);
});
