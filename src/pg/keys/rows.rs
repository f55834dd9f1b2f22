//! The tables of keys, as Rust reads them.

use std::cell::RefCell;

use crate::core::handle::Handle;
use crate::core::scan::Cursor;
use crate::pg::raw::relation::{Version, relation};
use crate::pg::raw::scan::{self, Scan};
use crate::pg::raw::types::{Array, Bool, Bytea, Inet, Int4, Jsonb, Text, Timestamp, Uuid};

relation! {
    /// The table of keys.
    Keys, 0, "keys" {
        SECRET_VERSION "secret_version" Int4,
        ENABLED "enabled" Bool,
        KEY_PREFIX "key_prefix" Text,
        SECRET_HASH "secret_hash" Text,
        NAME "name" Text,
        TIER "tier" Text,
        ENVIRONMENT "environment" Text,
        KIND "kind" Text,
        SCOPES "scopes" Array<Text>,
        METADATA "metadata" Jsonb,
        USER_ID "user_id" Uuid,
        TENANT_ID "tenant_id" Uuid,
        RESOURCE_ID "resource_id" Text,
        ALLOWED_IPS "allowed_ips" Array<Inet>,
        NOT_BEFORE "not_before" Timestamp,
        EXPIRES_AT "expires_at" Timestamp,
        PREVIOUS_SECRET_HASH "previous_secret_hash" Text,
        GRACE_EXPIRES_AT "grace_expires_at" Timestamp,
        REVOKED_AT "revoked_at" Timestamp,
        KEY_ID "key_id" Uuid,
        LEGACY_SCHEME "legacy_scheme" Text,
        LEGACY_PREFIX "legacy_prefix" Text,
        LOOKUP_HANDLE "lookup_handle" Bytea,
        ROLE "role" Text,
    }
    "keys_pkey" on KEY_ID;
    "keys_lookup_handle" on LOOKUP_HANDLE;
    "keys_legacy_prefix" on LEGACY_PREFIX, KEY_ID;
}

relation! {
    /// The table of the root key's fingerprint.
    RootKeys, 1, "root_key" {
        FINGERPRINT "fingerprint" Text,
        SCHEMES "schemes" Array<Text>,
    }
}

/// The row of a key: a copy, so that no page stays pinned while a secret is hashed.
pub type Row = scan::Row<Keys>;

/// The longest prefix by which a legacy key is found.
const MAX_PREFIX: usize = 64;

thread_local! {
    /// A fingerprint, and the table that it was read of.
    static FINGERPRINT: RefCell<Option<(Version, Vec<u8>)>> = const { RefCell::new(None) };
}

/// The fingerprint of the root key under which this database's legacy keys are found; `None` if
/// there are none.
///
/// Once there it stays, as long as the table does, and is read once a backend.
pub fn root_key_fingerprint() -> Option<Vec<u8>> {
    let known = FINGERPRINT.with_borrow(|known| {
        let current = known.as_ref().filter(|(of, _)| of.is_current::<RootKeys>());
        current.map(|(_, fingerprint)| fingerprint.clone())
    });
    known.or_else(|| {
        let mut found = None;
        let fingerprint = RootKeys::FINGERPRINT;
        Scan::all().each(|row| found = row.get(fingerprint).map(<[u8]>::to_vec));
        found
    })
}

/// Keeps a fingerprint that a root key has matched.
pub fn keep_fingerprint(fingerprint: Vec<u8>) {
    let of = Version::current::<RootKeys>();
    FINGERPRINT.set(of.map(|of| (of, fingerprint)));
}

/// The schemes of which keys were ever imported; `None` if that is not known.
///
/// Read each time, so that a key is found as soon as its import is committed.
pub fn imported_schemes() -> Option<Vec<Vec<u8>>> {
    let mut found = None;
    Scan::all().each(|row| {
        let schemes = row.get(RootKeys::SCHEMES);
        found = schemes.map(|texts| texts.into_iter().flatten().map(<[u8]>::to_vec).collect());
    });
    found
}

impl Row {
    /// Reads the row of a key, if the statement's snapshot sees one.
    pub fn find(key_id: uuid::Uuid) -> Option<Self> {
        Scan::by(Keys::KEY_ID.equals(&key_id)).copy()
    }

    /// Reads the row of the legacy key that has one of these handles, the first of them if there
    /// are several.
    pub fn find_by_handle(handles: impl IntoIterator<Item = Handle>) -> Option<Self> {
        let mut scan = Scan::along(Keys::LOOKUP_HANDLE);
        handles.into_iter().find_map(|handle| {
            scan.seek([Keys::LOOKUP_HANDLE.equals(&handle)]);
            scan.copy()
        })
    }

    /// Reads rows of legacy keys that have no handle yet and whose prefix begins `text`, at most
    /// `most` of those that come after a place: the longest prefixes first, then by key id.
    pub fn find_by_prefix(text: &[u8], after: Option<Cursor>, most: usize) -> Vec<Self> {
        let text = &text[..text.len().min(MAX_PREFIX)];
        let mut rows = Vec::new();
        let mut next = match after {
            Some(after) => Some(after.prefix().min(text.len())),
            None => longest_prefix(text),
        };
        while let Some(length) = next
            && rows.len() < most
        {
            let after = after.filter(|after| after.prefix() == length).map(|after| after.key_id);
            rows.extend(Self::of_prefix(&text[..length], after, most - rows.len()));
            next = length.checked_sub(1).and_then(|shorter| longest_prefix(&text[..shorter]));
        }
        rows
    }

    /// Keys of one prefix in the order of their ids, those after one if it is given.
    fn of_prefix(prefix: &[u8], after: Option<uuid::Uuid>, most: usize) -> Vec<Self> {
        let prefix = Keys::LEGACY_PREFIX.equals(prefix);
        let Some(after) = after else {
            let mut scan = Scan::by(prefix);
            return std::iter::from_fn(|| scan.copy()).take(most).collect();
        };
        let mut scan = Scan::along(Keys::LEGACY_PREFIX);
        scan.seek([prefix, Keys::KEY_ID.is_after(&after)]);
        std::iter::from_fn(|| scan.copy()).take(most).collect()
    }

    /// How many secrets the key has had.
    pub fn secret_version(&self) -> i64 {
        self.get(Keys::SECRET_VERSION).unwrap_or_default().into()
    }
}

/// The length of the longest prefix of `text` in the index of prefixes, whether of a row that the
/// snapshot sees or not.
///
/// The greatest value that is not greater than a text is its longest prefix, or else the two have
/// in common all that a prefix can have: so the search goes on with that, and few steps find it.
fn longest_prefix(text: &[u8]) -> Option<usize> {
    let mut scan = Scan::along(Keys::LEGACY_PREFIX);
    let mut text = text;
    loop {
        let compare = |found: &[u8]| {
            (found.len(), found.iter().zip(text).take_while(|(a, b)| a == b).count())
        };
        let at_most = [Keys::LEGACY_PREFIX.is_at_most(text)];
        let (length, common) = scan.last_text(Keys::LEGACY_PREFIX, at_most, compare)?;
        if common == length {
            return Some(length);
        }
        text = &text[..common];
    }
}
