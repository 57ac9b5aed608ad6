//! Who runs next: intrusive queues over thread handles.
//!
//! A queue never allocates: its links lie in the threads themselves ([`Linked`]), so enqueueing cannot fail
//! and a thread is on a given kind of queue at most once. A handle is whatever the kernel names a thread by
//! (a `&'static Tcb`); on the host the tests use leaked boxes.

pub mod list;
pub mod runqueue;
#[cfg(test)]
mod visit_tests;
pub mod wakeup;

pub use list::{Link, Linked, List};
pub use runqueue::RunQueue;
pub use wakeup::{WakeLink, WakeNode, WakeQueue};
