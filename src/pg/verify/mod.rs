//! Verifying a key.

pub mod answer;
mod functions;
pub mod prove;
