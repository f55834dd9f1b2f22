//! Builds jsonb values without the detour over JSON text, and with one call into PostgreSQL for
//! a whole object: on the hot path each call costs a saved jump buffer.

use pgrx::pg_sys::{self, JsonbPair, JsonbValue, jbvType};
use uuid::Uuid;

/// What a member of an object can be.
pub enum Value<'a> {
    /// JSON null.
    Null,
    /// true or false.
    Bool(bool),
    /// A number.
    Integer(i64),
    /// A string, in the encoding of the database.
    Text(&'a [u8]),
    /// A string: the canonical form of a UUID.
    Uuid(Uuid),
    /// A string: ISO 8601 in the session's time zone, as `to_jsonb(timestamptz)` gives it.
    Timestamp(pg_sys::TimestampTz),
    /// An array of strings, `None` for null.
    Texts(&'a [Option<&'a [u8]>]),
    /// A jsonb datum.
    Jsonb(pg_sys::Datum),
    /// An object.
    Object(&'a [Member<'a>]),
}

/// Name and value.
pub type Member<'a> = (&'static str, Value<'a>);

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

/// A jsonb datum of these members.
pub fn object(members: &[Member<'_>]) -> pg_sys::Datum {
    let mut tree = Tree::default();
    let mut root = tree.object(members);
    // SAFETY: `root` and all it points to live in `tree` and `members` until the call returns.
    unsafe { pg_sys::Datum::from(pg_sys::JsonbValueToJsonb(&mut root)) }
}

/// Owns what the `JsonbValue`s of one object point to; moving a `Vec` or a `String` does not move
/// what it points to.
#[derive(Default)]
struct Tree {
    texts: Vec<String>,
    pairs: Vec<Vec<JsonbPair>>,
    elements: Vec<Vec<JsonbValue>>,
}

impl Tree {
    fn object(&mut self, members: &[Member<'_>]) -> JsonbValue {
        let mut pairs = Vec::with_capacity(members.len());
        for (name, value) in members {
            let key = string(name.as_bytes());
            let value = self.value(value);
            pairs.push(JsonbPair { key, value, order: 0 });
        }
        // The order in which jsonb keeps and finds keys (lengthCompareJsonbStringValue).
        pairs.sort_unstable_by_key(|pair| {
            // SAFETY: each key is made by `string` from a name that lives for ever.
            unsafe {
                let key = pair.key.val.string;
                let length = usize::try_from(key.len).unwrap_or(0);
                (length, std::slice::from_raw_parts(key.val.cast::<u8>().cast_const(), length))
            }
        });
        let mut object = JsonbValue { type_: jbvType::jbvObject, ..JsonbValue::default() };
        object.val.object.nPairs = count(pairs.len());
        object.val.object.pairs = pairs.as_mut_ptr();
        self.pairs.push(pairs);
        object
    }

    fn value(&mut self, value: &Value<'_>) -> JsonbValue {
        match value {
            Value::Null => null(),
            Value::Bool(boolean) => {
                let mut value = JsonbValue { type_: jbvType::jbvBool, ..JsonbValue::default() };
                value.val.boolean = *boolean;
                value
            }
            Value::Integer(integer) => {
                let mut value = JsonbValue { type_: jbvType::jbvNumeric, ..JsonbValue::default() };
                // SAFETY: allocates a numeric in the current memory context.
                value.val.numeric = unsafe { pg_sys::int64_to_numeric(*integer) };
                value
            }
            Value::Text(text) => string(text),
            Value::Uuid(uuid) => {
                let mut buffer = uuid::Uuid::encode_buffer();
                self.owned(uuid.hyphenated().encode_lower(&mut buffer).to_owned())
            }
            Value::Timestamp(timestamp) => {
                // MAXDATELEN is 128.
                let mut buffer = [0; 128];
                // SAFETY: the buffer is of the size that the function asks for, and the datum is
                // of the type that is named.
                let text = unsafe {
                    pg_sys::JsonEncodeDateTime(
                        buffer.as_mut_ptr(),
                        pg_sys::Datum::from(*timestamp),
                        pg_sys::TIMESTAMPTZOID,
                        std::ptr::null(),
                    );
                    std::ffi::CStr::from_ptr(buffer.as_ptr())
                };
                self.owned(text.to_string_lossy().into_owned())
            }
            Value::Texts(texts) => {
                let mut elements: Vec<_> =
                    texts.iter().map(|text| text.map_or_else(null, string)).collect();
                let mut array = JsonbValue { type_: jbvType::jbvArray, ..JsonbValue::default() };
                array.val.array.nElems = count(elements.len());
                array.val.array.elems = elements.as_mut_ptr();
                array.val.array.rawScalar = false;
                self.elements.push(elements);
                array
            }
            Value::Jsonb(datum) => unpacked(*datum),
            Value::Object(members) => self.object(members),
        }
    }

    fn owned(&mut self, text: String) -> JsonbValue {
        let value = string(text.as_bytes());
        self.texts.push(text);
        value
    }
}

fn null() -> JsonbValue {
    JsonbValue { type_: jbvType::jbvNull, ..JsonbValue::default() }
}

/// Points to `text`, which must outlive the value.
fn string(text: &[u8]) -> JsonbValue {
    let mut value = JsonbValue { type_: jbvType::jbvString, ..JsonbValue::default() };
    value.val.string.len = count(text.len());
    value.val.string.val = text.as_ptr().cast_mut().cast();
    value
}

/// A count as PostgreSQL keeps it. What comes from a row or an argument is below 1 GiB.
fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// The tree of a jsonb object datum: `JsonbValueToJsonb` takes no packed values.
fn unpacked(datum: pg_sys::Datum) -> JsonbValue {
    // SAFETY: the datum is a jsonb; iterator, state and tree are allocated in the current memory
    // context, and the tree points into the detoasted value there.
    unsafe {
        let jsonb = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::Jsonb>();
        let mut iterator = pg_sys::JsonbIteratorInit(&mut (*jsonb).root);
        let mut state = std::ptr::null_mut();
        let mut value = JsonbValue::default();
        let mut tree: *mut JsonbValue = std::ptr::null_mut();
        loop {
            let token = pg_sys::JsonbIteratorNext(&mut iterator, &mut value, false);
            if token == pg_sys::JsonbIteratorToken::WJB_DONE {
                return if tree.is_null() { null() } else { *tree };
            }
            let scalar = token == pg_sys::JsonbIteratorToken::WJB_KEY
                || token == pg_sys::JsonbIteratorToken::WJB_VALUE
                || token == pg_sys::JsonbIteratorToken::WJB_ELEM;
            let argument = if scalar { &raw mut value } else { std::ptr::null_mut() };
            tree = pg_sys::pushJsonbValue(&mut state, token, argument);
        }
    }
}
