//! The tables of keys, as Rust reads them.

use std::cell::RefCell;

use pgrx::pg_sys;
use pgrx::prelude::*;
use uuid::Uuid;

use super::array;
use super::relation::{self, Comparison, Scan, Version};
use crate::core::handle::Handle;
use crate::core::scan::Cursor;
use crate::relation;

relation! {
    /// The columns of keys that are read here.
    Column, 0, "keys" {
        SecretVersion "secret_version" INT4OID,
        Enabled "enabled" BOOLOID,
        KeyPrefix "key_prefix" TEXTOID,
        SecretHash "secret_hash" TEXTOID,
        Name "name" TEXTOID,
        Tier "tier" TEXTOID,
        Environment "environment" TEXTOID,
        Kind "kind" TEXTOID,
        Scopes "scopes" TEXTARRAYOID,
        Metadata "metadata" JSONBOID,
        UserId "user_id" UUIDOID,
        TenantId "tenant_id" UUIDOID,
        ResourceId "resource_id" TEXTOID,
        AllowedIps "allowed_ips" INETARRAYOID,
        NotBefore "not_before" TIMESTAMPTZOID,
        ExpiresAt "expires_at" TIMESTAMPTZOID,
        PreviousSecretHash "previous_secret_hash" TEXTOID,
        GraceExpiresAt "grace_expires_at" TIMESTAMPTZOID,
        RevokedAt "revoked_at" TIMESTAMPTZOID,
        KeyId "key_id" UUIDOID,
        LegacyScheme "legacy_scheme" TEXTOID,
        LegacyPrefix "legacy_prefix" TEXTOID,
        LookupHandle "lookup_handle" BYTEAOID,
        Role "role" TEXTOID,
    }
    "keys_pkey" on KeyId;
    "keys_lookup_handle" on LookupHandle;
    "keys_legacy_prefix" on LegacyPrefix, KeyId;
}

relation! {
    /// The columns of the table of the root key's fingerprint.
    RootKeyColumn, 1, "root_key" {
        Fingerprint "fingerprint" TEXTOID,
        Schemes "schemes" TEXTARRAYOID,
    }
}

/// The row of a key: a copy, so that no page stays pinned while a secret is hashed.
pub type Row = relation::Row<Column>;

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
        let current = known.as_ref().filter(|(of, _)| of.is_current::<RootKeyColumn>());
        current.map(|(_, fingerprint)| fingerprint.clone())
    });
    known.or_else(|| {
        let mut found = None;
        let fingerprint = RootKeyColumn::Fingerprint;
        Scan::all().each(|row| found = row.text(fingerprint).map(<[u8]>::to_vec));
        found
    })
}

/// Keeps a fingerprint that a root key has matched.
pub fn keep_fingerprint(fingerprint: Vec<u8>) {
    let of = Version::current::<RootKeyColumn>();
    FINGERPRINT.set(of.map(|of| (of, fingerprint)));
}

/// The schemes of which keys were ever imported; `None` if that is not known.
///
/// Read each time, so that a key is found as soon as its import is committed.
pub fn imported_schemes() -> Option<Vec<Vec<u8>>> {
    let mut found = None;
    Scan::all().each(|row: &relation::Row<RootKeyColumn>| {
        // SAFETY: the column is a text[].
        let texts = |datum| unsafe { array::texts(datum) };
        let schemes = row.datum(RootKeyColumn::Schemes).map(texts);
        found = schemes.map(|texts| texts.into_iter().flatten().map(<[u8]>::to_vec).collect());
    });
    found
}

impl Row {
    /// Reads the row of a key, if the statement's snapshot sees one.
    pub fn find(key_id: Uuid) -> Option<Self> {
        let key_id = key_id.into_bytes();
        // SAFETY: a uuid is 16 bytes by reference.
        unsafe { Scan::by(Column::KeyId, pg_sys::Datum::from(key_id.as_ptr())).copy() }
    }

    /// Reads the row of the legacy key that has one of these handles, the first of them if there
    /// are several.
    pub fn find_by_handle(handles: impl IntoIterator<Item = Handle>) -> Option<Self> {
        let mut scan = Scan::along(Column::LookupHandle, 1);
        handles.into_iter().find_map(|handle| {
            let value = handle.as_slice().into_datum()?;
            // SAFETY: a bytea.
            unsafe { scan.seek([(Comparison::Equal, value)]) };
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
    fn of_prefix(prefix: &[u8], after: Option<Uuid>, most: usize) -> Vec<Self> {
        // A text is a varlena as a bytea is.
        let Some(prefix) = prefix.into_datum() else {
            return Vec::new();
        };
        let mut scan = Scan::along(Column::LegacyPrefix, 1 + i32::from(after.is_some()));
        let prefix = (Comparison::Equal, prefix);
        let after = after.map(Uuid::into_bytes);
        // SAFETY: a text and a uuid, which are kept until the rows are copied.
        unsafe {
            match &after {
                Some(after) => scan.seek([prefix, (Comparison::Greater, after.as_ptr().into())]),
                None => scan.seek([prefix]),
            }
        }
        std::iter::from_fn(|| scan.copy()).take(most).collect()
    }

    /// A uuid column.
    pub fn uuid(&self, column: Column) -> Option<Uuid> {
        // SAFETY: callers name uuid columns, which are 16 bytes by reference.
        self.datum(column)
            .map(|datum| unsafe { Uuid::from_bytes(*datum.cast_mut_ptr::<[u8; 16]>()) })
    }

    /// How many secrets the key has had.
    pub fn secret_version(&self) -> i64 {
        let version = self.datum(Column::SecretVersion);
        version.map_or(0, |version| i64::try_from(version.value()).unwrap_or(0))
    }

    /// A timestamptz column: microseconds since 2000-01-01 UTC.
    pub fn timestamp(&self, column: Column) -> Option<pg_sys::TimestampTz> {
        self.datum(column).map(|datum| datum.value().cast_signed() as pg_sys::TimestampTz)
    }
}

/// The length of the longest prefix of `text` in the index of prefixes, whether of a row that the
/// snapshot sees or not.
///
/// The greatest value that is not greater than a text is its longest prefix, or else the two have
/// in common all that a prefix can have: so the search goes on with that, and few steps find it.
fn longest_prefix(text: &[u8]) -> Option<usize> {
    let mut scan = Scan::along(Column::LegacyPrefix, 1);
    let mut text = text;
    loop {
        let value = text.into_datum()?;
        let compare = |found: &[u8]| {
            (found.len(), found.iter().zip(text).take_while(|(a, b)| a == b).count())
        };
        // SAFETY: a text.
        let last = unsafe { scan.last_text([(Comparison::AtMost, value)], compare) };
        let (length, common) = last?;
        if common == length {
            return Some(length);
        }
        text = &text[..common];
    }
}
