//! Safe access to what PostgreSQL gives.

pub mod background;
pub mod inet;
pub mod like;
pub mod server;
