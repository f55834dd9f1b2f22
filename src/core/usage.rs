//! Usage: use counts and denials, which verifies record in memory until a flush writes them.
//!
//! A *denial* is a verify that did not answer VALID. Callers see denials as audit events named
//! `refused`; a *refusal* in the code is always an answer over HTTP or an SQL error.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::table::Value;
use super::verdict::Code;

/// A client's address or network, as in PostgreSQL's type `inet`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The length of the network's prefix in bits; 32 or 128 for a single address.
    pub prefix: u8,
}

impl Address {
    /// The network that belongs to one client. For IPv6 that is the /64, in which a host can choose
    /// its addresses freely (RFC 7934). For IPv4, also when mapped to IPv6, it is the address.
    #[must_use]
    pub fn network(self) -> Self {
        match self.ip {
            IpAddr::V6(ip) if self.prefix > 64 => match ip.to_ipv4_mapped() {
                Some(ip) if self.prefix == 128 => Self { ip: ip.into(), prefix: 32 },
                _ => Self { ip: Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(), prefix: 64 },
            },
            _ => self,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// A key of one database of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyRef {
    /// The database's oid.
    pub database: u32,
    /// The key's id.
    pub key_id: Uuid,
}

/// How a key was used since the last flush. Times are microseconds since 2000-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Verifies that answered VALID.
    pub uses: u64,
    /// Verifies with a wrong secret.
    pub failures: u64,
    /// Time of the last verify that answered VALID.
    pub last_used_at: Option<i64>,
    /// The last address given in a verify that answered VALID.
    pub last_used_ip: Option<Address>,
}

impl Value for Usage {}

impl Usage {
    /// Adds the counts of `other`, which may be older or newer.
    pub fn add(&mut self, other: &Self) {
        self.uses += other.uses;
        self.failures += other.failures;
        if other.last_used_at >= self.last_used_at {
            self.last_used_at = other.last_used_at;
            self.last_used_ip = other.last_used_ip.or(self.last_used_ip);
        }
    }
}

/// The properties that denials share if they are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DenialKind {
    /// The database's oid.
    pub database: u32,
    /// The answer.
    pub code: Code,
    /// The key, if the text was that of a key.
    pub key_id: Option<Uuid>,
    /// The client's network, if its address was given.
    pub client_ip: Option<Address>,
}

impl DenialKind {
    /// The kind without the properties that an attacker can vary. Floods are counted under it when
    /// the table is full.
    #[must_use]
    pub const fn coarse(self) -> Self {
        Self { key_id: None, client_ip: None, ..self }
    }
}

/// Denials of one kind since the last flush. Times are microseconds since 2000-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denials {
    /// Number of denials.
    pub count: u64,
    /// Time of the first denial.
    pub first_at: i64,
    /// Time of the last denial.
    pub last_at: i64,
}

impl Value for Denials {}

impl Denials {
    /// One denial at `now`.
    #[must_use]
    pub const fn one(now: i64) -> Self {
        Self { count: 1, first_at: now, last_at: now }
    }

    /// Adds the denials of `other`.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.first_at = self.first_at.min(other.first_at);
        self.last_at = self.last_at.max(other.last_at);
    }
}

/// [`Usage`] of a key, as `export_usage` returns it and the file for clean restarts stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    database: u32,
    key_id: String,
    uses: u64,
    failures: u64,
    last_used_at: Option<i64>,
    last_used_ip: Option<String>,
}

impl From<&(KeyRef, Usage)> for UsageRecord {
    fn from((key, usage): &(KeyRef, Usage)) -> Self {
        Self {
            database: key.database,
            key_id: key.key_id.to_string(),
            uses: usage.uses,
            failures: usage.failures,
            last_used_at: usage.last_used_at,
            last_used_ip: usage.last_used_ip.map(|address| address.to_string()),
        }
    }
}

impl UsageRecord {
    /// The entry of the record. `None` if the key id is invalid.
    #[must_use]
    pub fn entry(&self) -> Option<(KeyRef, Usage)> {
        let key = KeyRef { database: self.database, key_id: self.key_id.parse().ok()? };
        let last_used_ip = self.last_used_ip.as_deref().and_then(address);
        let Self { uses, failures, last_used_at, .. } = *self;
        Some((key, Usage { uses, failures, last_used_at, last_used_ip }))
    }
}

/// [`Denials`] of one kind, as SQL reads them (`flush_denials`) and the file for clean restarts
/// stores them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialRecord {
    database: u32,
    code: String,
    key_id: Option<String>,
    client_ip: Option<String>,
    count: u64,
    first_at: i64,
    last_at: i64,
}

impl From<&(DenialKind, Denials)> for DenialRecord {
    fn from((kind, denials): &(DenialKind, Denials)) -> Self {
        Self {
            database: kind.database,
            code: kind.code.as_str().to_owned(),
            key_id: kind.key_id.map(|key_id| key_id.to_string()),
            client_ip: kind.client_ip.map(|address| address.to_string()),
            count: denials.count,
            first_at: denials.first_at,
            last_at: denials.last_at,
        }
    }
}

impl DenialRecord {
    /// The entry of the record. `None` if the code is unknown.
    #[must_use]
    pub fn entry(&self) -> Option<(DenialKind, Denials)> {
        let kind = DenialKind {
            database: self.database,
            code: Code::from_name(&self.code)?,
            key_id: self.key_id.as_deref().and_then(|key_id| key_id.parse().ok()),
            client_ip: self.client_ip.as_deref().and_then(address),
        };
        let Self { count, first_at, last_at, .. } = *self;
        Some((kind, Denials { count, first_at, last_at }))
    }
}

fn address(text: &str) -> Option<Address> {
    let (ip, prefix) = text.split_once('/')?;
    let ip: IpAddr = ip.parse().ok()?;
    let prefix = prefix.parse().ok()?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    (prefix <= longest).then_some(Address { ip, prefix })
}

/// The contents of the file for clean restarts, and of the export from a standby to its primary.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecords {
    /// Use counts.
    pub usage: Vec<UsageRecord>,
    /// Denials. `export_usage` calls them refusals.
    #[serde(rename = "refusals")]
    pub denials: Vec<DenialRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_address() -> impl Strategy<Value = Option<Address>> {
        any::<Option<(IpAddr, u8)>>()
            .prop_map(|a| a.map(|(ip, prefix)| Address { ip, prefix: prefix % 33 }))
    }

    #[test]
    fn addresses_of_one_client_map_to_one_network() {
        for (address, network) in [
            ("192.0.2.1/32", "192.0.2.1/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("::ffff:192.0.2.1/128", "192.0.2.1/32"),
            ("2001:db8:1:2:3:4:5:6/128", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::/128", "2001:db8:1:2::/64"),
            ("2001:db8:1::/48", "2001:db8:1::/48"),
            ("2001:db8:1:2:3::/80", "2001:db8:1:2::/64"),
        ] {
            let found = super::address(address).map(|address| address.network().to_string());
            assert_eq!(found.as_deref(), Some(network), "{address}");
        }
    }

    proptest! {
        #[test]
        fn records_return_their_entries(
            database: u32, key_id: u128, uses: u32, failures: u32, at: Option<i64>,
            code in 0usize..12, client_ip in any_address(),
        ) {
            let key_id = Uuid::from_u128(key_id);
            let usage = (KeyRef { database, key_id }, Usage {
                uses: uses.into(), failures: failures.into(), last_used_at: at,
                last_used_ip: client_ip,
            });
            let denials = (
                DenialKind { database, code: Code::ALL[code], key_id: Some(key_id), client_ip },
                Denials { count: uses.into(), first_at: 1, last_at: 2 },
            );
            let records = UsageRecords { usage: vec![(&usage).into()], denials: vec![(&denials).into()] };
            let text = serde_json::to_string(&records)?;
            let read: UsageRecords = serde_json::from_str(&text)?;
            prop_assert_eq!(read.usage[0].entry(), Some(usage));
            prop_assert_eq!(read.denials[0].entry(), Some(denials));
        }

        #[test]
        fn counts_can_be_added_in_any_order(
            counts in prop::collection::vec((0u64..9, 0u64..9, any::<Option<i32>>()), 1..9),
        ) {
            let usages: Vec<_> = counts.iter().map(|&(uses, failures, at)| Usage {
                uses, failures, last_used_at: at.map(i64::from), last_used_ip: None,
            }).collect();
            let mut forwards = Usage::default();
            let mut backwards = Usage::default();
            usages.iter().for_each(|usage| forwards.add(usage));
            usages.iter().rev().for_each(|usage| backwards.add(usage));
            prop_assert_eq!(forwards, backwards);
            prop_assert_eq!(forwards.uses, counts.iter().map(|count| count.0).sum::<u64>());
        }
    }
}
