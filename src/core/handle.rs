//! Handles: lookup values of legacy keys, which avoid storing an unsalted digest of the text.

/// HMAC-SHA256 of a text or a digest under the root key, cut to 128 bits.
pub type Handle = [u8; 16];

/// The text of a legacy key, in one database of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TextHandle {
    /// The database's oid.
    pub database: u32,
    /// The handle of the text.
    pub handle: Handle,
}
