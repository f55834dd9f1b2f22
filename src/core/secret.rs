//! Plaintext that must not leak.

use zeroize::Zeroizing;

/// A plaintext, wiped when dropped. It has no `Debug`, `Display`, `Clone` or `PartialEq`, so that
/// it cannot be printed, copied or compared in variable time by accident.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of a plaintext.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The plaintext. Only code that shows or hashes it may call this.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}
