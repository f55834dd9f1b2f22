//! Keys: their rows, the helpers of the commands on them, and the keys that a text may be.

mod functions;
pub mod rows;
pub mod suspects;
