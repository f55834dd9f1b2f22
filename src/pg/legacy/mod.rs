//! Keys that came from elsewhere, with the hashes that they had.

mod command;
pub mod find;
mod functions;
pub mod known_texts;
pub mod root_key;
pub mod scan;
