//! The machine's surroundings: threads, messages, mappings, the memory that pagers share.

mod act;
mod kernel;
mod quick;
#[expect(unsafe_code, reason = "one place finds the other pagers' shared data by address")]
mod shared;
mod spawn;
pub mod start;
mod thread;
