//! The client's address, taken from `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};

/// The client's address as the outermost of `trusted` proxies saw it: entry number `trusted` from
/// the right. The client may have forged any entry to the left of it. `None` if there is no such
/// entry or it is not an address.
#[must_use]
pub fn client_address(forwarded_for: &str, trusted: usize) -> Option<IpAddr> {
    let entry = forwarded_for.rsplit(',').nth(trusted.checked_sub(1)?)?.trim();
    // Some proxies add the port, and write IPv6 addresses in brackets.
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    bare.parse().or_else(|_| entry.parse().map(|socket: SocketAddr| socket.ip())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(forwarded_for: &str, trusted: usize) -> Option<String> {
        client_address(forwarded_for, trusted).map(|ip| ip.to_string())
    }

    #[test]
    fn counts_from_the_right_and_ignores_forged_entries() {
        assert_eq!(address("198.51.100.7", 1).as_deref(), Some("198.51.100.7"));
        assert_eq!(address("10.0.0.1, 198.51.100.7", 1).as_deref(), Some("198.51.100.7"));
        assert_eq!(address("6.6.6.6,198.51.100.7 , 10.0.0.1", 2).as_deref(), Some("198.51.100.7"));
    }

    #[test]
    fn too_few_entries_give_no_address() {
        assert_eq!(address("198.51.100.7", 2), None);
        assert_eq!(address("198.51.100.7", 0), None);
        assert_eq!(address("", 1), None);
        assert_eq!(address("198.51.100.7, ", 1), None);
        assert_eq!(address("198.51.100.7, unknown", 1), None);
    }

    #[test]
    fn takes_the_forms_that_proxies_write() {
        assert_eq!(address("2001:db8::7", 1).as_deref(), Some("2001:db8::7"));
        assert_eq!(address("[2001:db8::7]", 1).as_deref(), Some("2001:db8::7"));
        assert_eq!(address("[2001:db8::7]:443", 1).as_deref(), Some("2001:db8::7"));
        assert_eq!(address("198.51.100.7:51234", 1).as_deref(), Some("198.51.100.7"));
    }

    proptest! {
        #[test]
        fn nothing_on_the_left_changes_the_answer(left in "\\PC{0,40}", trusted in 1usize..4) {
            let vouched = ["198.51.100.7", "10.0.0.1", "10.0.0.2"];
            let right = vouched[..trusted].join(", ");
            let seen = address(&format!("{left}, {right}"), trusted);
            prop_assert_eq!(seen.as_deref(), Some("198.51.100.7"));
        }
    }
}
