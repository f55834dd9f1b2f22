//! Plaintext that must not be seen.

use zeroize::Zeroizing;

/// A plaintext: wiped when dropped, and without `Debug`, `Display`, `Clone` or `PartialEq`, so
/// that it cannot be printed, kept or compared in variable time by accident.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of a plaintext.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The plaintext, for the one place that has to show or hash it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}
