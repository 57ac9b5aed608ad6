//! Thread numbers, versions and UTCB slots of the harness.
//!
//! Numbers count from the first one that is free for the root task: pager, runner, puppets. The
//! version changes with every test, so that no id is ever used twice.

use core::sync::atomic::{AtomicU32, Ordering};
use l4abi::utcb::{ROOT_UTCB_AREA, UTCB_SIZE};
use libl4::{ThreadId, ThreadNo};

/// Most puppets of a test.
pub const MAX_PUPPETS: usize = 8;
/// Thread numbers that tests may use for threads of their own, behind the puppets.
pub const SPARE: u32 = 8;

/// Slot of the pager thread.
pub const PAGER: u32 = 0;
/// Slot of the runner.
pub const RUNNER: u32 = 1;
/// Slot of the first puppet.
pub const FIRST_PUPPET: u32 = 2;
/// Slot of the first spare thread.
pub const FIRST_SPARE: u32 = FIRST_PUPPET + MAX_PUPPETS as u32;
/// Number of slots.
pub const SLOTS: u32 = FIRST_SPARE + SPARE;

static VERSION: AtomicU32 = AtomicU32::new(1);

/// First free thread number. Copied from the KIP once: spaces of puppets share the program's image,
/// but have their KIP elsewhere, so code that puppets execute must not look for it.
static FIRST_FREE: AtomicU32 = AtomicU32::new(0);

/// Reads what the ids depend on from the KIP.
pub(crate) fn init() {
    let first = libl4::kip().thread_ranges().first_free();
    FIRST_FREE.store(first.0, Ordering::Relaxed);
}

/// Starts a new generation of ids.
pub fn next_version() {
    VERSION.fetch_add(2, Ordering::Relaxed);
}

/// The id of a slot's thread in the present generation. Versions are odd, so never local ids.
#[must_use]
pub fn of_slot(slot: u32) -> ThreadId {
    ThreadId::global(number(slot), VERSION.load(Ordering::Relaxed))
}

/// The thread number of a slot.
#[must_use]
pub fn number(slot: u32) -> ThreadNo {
    ThreadNo(FIRST_FREE.load(Ordering::Relaxed) + slot)
}

/// The pager's id, which stays.
#[must_use]
pub fn pager() -> ThreadId {
    ThreadId::global(number(PAGER), 1)
}

/// The root task's first thread.
#[must_use]
pub fn controller() -> ThreadId {
    libl4::kip().thread_ranges().root_task()
}

/// UTCB location of a slot's thread in the root task's space (slot 0 there is the controller's).
#[must_use]
pub fn root_utcb(slot: u32) -> u64 {
    ROOT_UTCB_AREA.0 + (u64::from(slot) + 1) * UTCB_SIZE as u64
}

/// UTCB area of the spaces that puppets live in: not where the root task has its own, so that
/// confusing them shows.
pub const PUPPET_UTCB_AREA: (u64, u8) = (0x8000_0000, 16);
/// KIP area of those spaces.
pub const PUPPET_KIP: u64 = 0x8100_0000;

/// UTCB location of a slot's thread in a puppet's space.
#[must_use]
pub fn puppet_utcb(slot: u32) -> u64 {
    PUPPET_UTCB_AREA.0 + (u64::from(slot) + 1) * UTCB_SIZE as u64
}
