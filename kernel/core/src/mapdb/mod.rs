//! The mapping database: which page came from which, and how to take it back.
//!
//! See docs/design/mapping.md.

mod attribute;
mod env;
mod fast;
mod flush;
mod grant;
pub mod holdings;
mod map;
mod node;
pub mod ports;
pub mod pte;
mod revoke;
mod root;
mod session;
mod single;
mod space;
mod unmap;
pub mod view;

// The crate has no unsafe code for miri to judge, and a simulated machine is slow there.
#[cfg(all(test, not(miri)))]
mod tests;

pub use attribute::AttributeOp;
pub use env::{Env, FrameInfo, SpaceRef};
pub use flush::{FlushRange, FlushSet, RANGES};
pub use map::MapOp;
pub use session::{Hint, OutOfMemory, Session, used_of_top};
pub use single::map_single;
pub use space::Found;
pub use unmap::{DeleteOp, USER_END, UnmapOp};

/// How far a step has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Progress {
    /// The operation is complete.
    Done,
    /// The budget is used up; call `step` again.
    More,
}

const _: () = assert!(size_of::<MapOp>() <= 128);
const _: () = assert!(size_of::<UnmapOp>() <= 128);
