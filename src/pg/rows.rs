//! The tables of keys, as Rust reads them.

use std::cell::RefCell;

use pgrx::pg_sys;
use pgrx::prelude::*;
use uuid::Uuid;

use super::relation::{self, Scan, Version};
use super::root_key::Handle;
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
    "keys_pkey" on KeyId,
    "keys_lookup_handle" on LookupHandle,
    "keys_legacy_prefix" on LegacyPrefix,
}

relation! {
    /// The column of the root key's fingerprint.
    RootKeyColumn, 1, "root_key" {
        Fingerprint "fingerprint" TEXTOID,
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

impl Row {
    /// Reads the row of a key, if the statement's snapshot sees one.
    pub fn find(key_id: Uuid) -> Option<Self> {
        let key_id = key_id.into_bytes();
        // SAFETY: a uuid is 16 bytes by reference.
        unsafe { Scan::by(Column::KeyId, pg_sys::Datum::from(key_id.as_ptr())).copy() }
    }

    /// Reads the row of the legacy key that has this handle.
    pub fn find_by_handle(handle: Handle) -> Option<Self> {
        // SAFETY: a bytea.
        unsafe { Scan::by(Column::LookupHandle, handle.as_slice().into_datum()?).copy() }
    }

    /// Reads rows of legacy keys that have no handle yet and whose prefix begins `text`, the
    /// longest prefixes first, at most `most` of them.
    pub fn find_by_prefix(text: &[u8], most: usize) -> Vec<Self> {
        let mut rows = Vec::new();
        for length in (0..=text.len().min(MAX_PREFIX)).rev() {
            if rows.len() >= most {
                break;
            }
            // A text is a varlena as a bytea is.
            if let Some(prefix) = text[..length].into_datum() {
                // SAFETY: a text.
                let mut scan = unsafe { Scan::by(Column::LegacyPrefix, prefix) };
                let left = most - rows.len();
                rows.extend(std::iter::from_fn(|| scan.copy()).take(left));
            }
        }
        rows
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
