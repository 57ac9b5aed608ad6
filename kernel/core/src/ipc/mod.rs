//! The rules of IPC that need no hardware: thread states with their legal transitions, and who may meet whom.

pub mod meet;
pub mod state;

pub use meet::{Awaited, Identity, accepts};
pub use state::{Key, State};
#[cfg(test)]
mod random_tests;
