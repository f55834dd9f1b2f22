//! What the client wrote to the left of what trusted proxies wrote changes no address.
#![no_main]

use api_key::core::forwarded::client_address;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &str)| {
    let (trusted, written) = (usize::from(input.0), input.1);
    let address = client_address(written, trusted);
    if trusted == 0 {
        assert_eq!(address, None);
    } else if written.split(',').count() >= trusted {
        assert_eq!(client_address(&format!("10.0.0.1, {written}"), trusted), address);
    }
    let proxies = ", 10.0.0.2".repeat(trusted);
    assert_eq!(
        client_address(&format!("{written}, 192.0.2.1{proxies}"), trusted + 1),
        "192.0.2.1".parse().ok()
    );
});
