//! Addresses in the form of PostgreSQL's type inet.

use std::ffi::CString;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pgrx::pg_sys::{self, Datum};

use super::varlena::bytes;
use crate::core::usage::Address;

/// The family of IPv4 in an inet (utils/inet.h: AF_INET); IPv6 has the next number.
const PGSQL_AF_INET: u8 = 2;

/// A value of type inet.
#[derive(Clone, Copy)]
pub struct Inet<'a> {
    datum: Datum,
    value: PhantomData<&'a [u8]>,
}

impl Inet<'_> {
    /// # Safety
    /// The datum is an inet, and lives as long as the value.
    pub(super) unsafe fn of(datum: Datum) -> Self {
        Self { datum, value: PhantomData }
    }

    /// The inet of an address.
    pub fn from_ip(ip: IpAddr) -> Option<Self> {
        let text = CString::new(ip.to_string()).ok()?;
        // SAFETY: inet_in takes a C string, which lives over the call, and gives an inet in the
        // memory context of the call.
        unsafe {
            let argument = Some(Datum::from(text.as_ptr()));
            pgrx::direct_function_call_as_datum(pg_sys::inet_in, &[argument])
                .map(|datum| Self::of(datum))
        }
    }

    /// Its address and the length of its network's prefix.
    pub fn address(self) -> Option<Address> {
        // SAFETY: an inet is a varlena of family, prefix length and address (utils/inet.h).
        let bytes = unsafe { bytes(self.datum) };
        let (&[family, prefix], ip) = bytes.split_first_chunk()?;
        let ip = match family {
            PGSQL_AF_INET => IpAddr::V4(Ipv4Addr::from_octets(*ip.first_chunk()?)),
            _ => IpAddr::V6(Ipv6Addr::from_octets(*ip.first_chunk()?)),
        };
        Some(Address { ip, prefix })
    }

    /// Whether it is in a network, by PostgreSQL's own `<<=`.
    pub fn is_in(self, network: Inet<'_>) -> bool {
        let arguments = [Some(self.datum), Some(network.datum)];
        // SAFETY: network_subeq takes two inets.
        unsafe { pgrx::direct_function_call(pg_sys::network_subeq, &arguments) == Some(true) }
    }
}
