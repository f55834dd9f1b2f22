//! Addresses in the form of PostgreSQL's type inet.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pgrx::pg_sys;

use crate::core::usage::Address;
use crate::pg::array;

/// The family of IPv4 in an inet (utils/inet.h: AF_INET); IPv6 has the next number.
const PGSQL_AF_INET: u8 = 2;

/// An inet datum: family, prefix length and address (utils/inet.h).
pub fn address(inet: Option<pg_sys::Datum>) -> Option<Address> {
    // SAFETY: callers pass inet datums.
    let bytes = unsafe { array::text_bytes(inet?) };
    let (&[family, prefix], ip) = bytes.split_first_chunk()?;
    let ip = match family {
        PGSQL_AF_INET => IpAddr::V4(Ipv4Addr::from_octets(*ip.first_chunk()?)),
        _ => IpAddr::V6(Ipv6Addr::from_octets(*ip.first_chunk()?)),
    };
    Some(Address { ip, prefix })
}

/// The inet datum of an address.
pub fn inet(ip: IpAddr) -> Option<pg_sys::Datum> {
    let text = CString::new(ip.to_string()).ok()?;
    // SAFETY: inet_in takes a C string, which lives over the call.
    unsafe {
        let argument = Some(pg_sys::Datum::from(text.as_ptr()));
        pgrx::direct_function_call_as_datum(pg_sys::inet_in, &[argument])
    }
}
