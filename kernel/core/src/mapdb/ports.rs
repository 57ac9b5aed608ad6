//! Who got which I/O port from whom (reference 1.3, 4.9).
//!
//! Ports keep their numbers and are mapped or not, without rights. So a space holds a port at most once, and the
//! tree of a port is one word per space: from which space it has the port. A space with ports has a
//! *record* page (its number, pointers to the chunks) and a *chunk* page for every 2048 ports of which it holds one.
//! Taking ports back needs no memory. One lock, the caller's, covers everything.

use super::Progress;
use super::env::{Env, SpaceRef};
use super::session::OutOfMemory;

/// Ports of the machine.
pub const PORTS: u32 = 1 << 16;

/// Words of a record page.
const NEXT: u64 = 0;
const SPACE: u64 = 8;
/// The record's number, which stands for the space in the chunks of others.
const NUMBER: u64 = 16;
const CHUNKS: u64 = 64;

const PORTS_PER_CHUNK: u32 = 2048;

/// Parent of a port that came from the machine itself, by sigma0.
const MACHINE: u64 = 1;
/// The first number of a record.
const FIRST_NUMBER: u64 = 2;

/// The database of I/O ports.
#[derive(Debug)]
pub struct PortDb {
    records: u64,
}

impl Default for PortDb {
    fn default() -> Self {
        Self::new()
    }
}

impl PortDb {
    /// Nobody holds a port.
    pub const fn new() -> Self {
        Self { records: 0 }
    }

    /// Maps the ports from `first` that `from` holds to `to`; what `to` holds already stays as it is. `from` is
    /// [`SpaceRef::PHYSICAL`] for sigma0. With `grant` the ports leave `from`, and what was derived from them
    /// hangs below whom `from` had them from. `changed` is told of every port that a space got or lost. Takes
    /// about `count` times ten instructions, for the whole space some hundred thousand: call it for parts.
    ///
    /// # Errors
    /// [`OutOfMemory`]: the ports before the failing one are mapped.
    pub fn map<E: Env>(
        &mut self,
        env: &E,
        (from, to): (SpaceRef, SpaceRef),
        (first, count): (u32, u32),
        grant: bool,
        mut changed: impl FnMut(SpaceRef, u16, bool),
    ) -> Result<(), OutOfMemory> {
        let sender = self.record(env, from);
        if from == to || (from != SpaceRef::PHYSICAL && sender == 0) {
            return Ok(());
        }
        let giver = if from == SpaceRef::PHYSICAL { MACHINE } else { number(env, sender) };
        let mut port = first;
        while port < (first + count).min(PORTS) {
            if giver != MACHINE && chunk(env, sender, port) == 0 {
                port = next_chunk(port);
                continue;
            }
            if giver == MACHINE || parent(env, sender, port) != 0 {
                let receiver = self.make_record(env, to)?;
                if parent(env, receiver, port) == 0 {
                    make_chunk(env, to, receiver, port)?;
                    set_parent(env, receiver, port, giver);
                    changed(to, port as u16, true);
                }
                if grant && giver != MACHINE {
                    self.remove(env, sender, port);
                    changed(from, port as u16, false);
                }
            }
            port += 1;
        }
        Ok(())
    }

    /// Takes the ports from `*next` up to `end` from everybody who got them from `space`, and with `own` from `space`
    /// itself. About `budget` ports and spaces are looked at; `next` tells how far that went.
    pub fn unmap<E: Env>(
        &mut self,
        env: &E,
        space: SpaceRef,
        (next, end): (&mut u32, u32),
        own: bool,
        budget: &mut i32,
        mut changed: impl FnMut(SpaceRef, u16, bool),
    ) -> Progress {
        let holder = self.record(env, space);
        if holder == 0 && space != SpaceRef::PHYSICAL {
            return Progress::Done;
        }
        while *next < end.min(PORTS) {
            if *budget <= 0 {
                return Progress::More;
            }
            *budget -= 1;
            let port = *next;
            if holder != 0 && chunk(env, holder, port) == 0 {
                *next = next_chunk(port);
                continue;
            }
            *next += 1;
            if holder != 0 && parent(env, holder, port) == 0 {
                continue;
            }
            let giver = if holder == 0 { MACHINE } else { number(env, holder) };
            *budget -= self.take_back(env, giver, port, &mut changed);
            if own && holder != 0 {
                self.remove(env, holder, port);
                changed(space, port as u16, false);
            }
        }
        Progress::Done
    }

    /// The end of a space: after its ports have been unmapped with `own`, its pages return.
    pub fn release<E: Env>(&mut self, env: &E, space: SpaceRef) {
        let mut link = 0;
        let mut record = self.records;
        while record != 0 && env.read(record + SPACE) != space.0 {
            link = record;
            record = env.read(record + NEXT);
        }
        if record == 0 {
            return;
        }
        let next = env.read(record + NEXT);
        if link == 0 {
            self.records = next;
        } else {
            env.write(link + NEXT, next);
        }
        for i in 0..PORTS / PORTS_PER_CHUNK {
            let at = record + CHUNKS + i as u64 * 8;
            let page = env.read(at);
            if page != 0 {
                clear(env, page, 4096);
                env.free_index(page, false);
            }
        }
        clear(env, record, CHUNKS + (PORTS / PORTS_PER_CHUNK) as u64 * 8);
        env.free_index(record, false);
    }

    /// Whether `space` holds `port`.
    pub fn holds<E: Env>(&self, env: &E, space: SpaceRef, port: u16) -> bool {
        let record = self.record(env, space);
        record != 0 && parent(env, record, port as u32) != 0
    }

    /// Removes `port` from all who have it from `giver`, directly or not. Answers how many spaces were looked at.
    fn take_back<E: Env>(
        &self,
        env: &E,
        giver: u64,
        port: u32,
        changed: &mut impl FnMut(SpaceRef, u16, bool),
    ) -> i32 {
        let mut looked = 0;
        let mut again = true;
        while again {
            again = false;
            let mut record = self.records;
            while record != 0 {
                looked += 1;
                if parent(env, record, port) == giver {
                    // Whoever has it from this space is next: hang it below `giver`.
                    again |= self.hand_down(env, number(env, record), giver, port);
                    set_parent(env, record, port, 0);
                    changed(SpaceRef(env.read(record + SPACE)), port as u16, false);
                }
                record = env.read(record + NEXT);
            }
        }
        looked
    }

    /// Makes `to` the parent of all who have `port` from `from`. True if there was one.
    fn hand_down<E: Env>(&self, env: &E, from: u64, to: u64, port: u32) -> bool {
        let mut any = false;
        let mut record = self.records;
        while record != 0 {
            if parent(env, record, port) == from {
                set_parent(env, record, port, to);
                any = true;
            }
            record = env.read(record + NEXT);
        }
        any
    }

    /// Removes a port from one space; its children take its place.
    fn remove<E: Env>(&self, env: &E, record: u64, port: u32) {
        let above = parent(env, record, port);
        self.hand_down(env, number(env, record), above, port);
        set_parent(env, record, port, 0);
    }

    fn record<E: Env>(&self, env: &E, space: SpaceRef) -> u64 {
        let mut record = self.records;
        while record != 0 && env.read(record + SPACE) != space.0 {
            record = env.read(record + NEXT);
        }
        record
    }

    fn make_record<E: Env>(&mut self, env: &E, space: SpaceRef) -> Result<u64, OutOfMemory> {
        let record = self.record(env, space);
        if record != 0 {
            return Ok(record);
        }
        let mut free = FIRST_NUMBER;
        while self.is_number_used(env, free) {
            free += 1;
        }
        if free > u16::MAX as u64 {
            return Err(OutOfMemory);
        }
        let record = env.alloc_index(env.home(space), false).ok_or(OutOfMemory)?;
        env.write(record + NEXT, self.records);
        env.write(record + SPACE, space.0);
        env.write(record + NUMBER, free);
        self.records = record;
        Ok(record)
    }

    fn is_number_used<E: Env>(&self, env: &E, wanted: u64) -> bool {
        let mut record = self.records;
        while record != 0 {
            if number(env, record) == wanted {
                return true;
            }
            record = env.read(record + NEXT);
        }
        false
    }
}

fn number<E: Env>(env: &E, record: u64) -> u64 {
    env.read(record + NUMBER)
}

fn next_chunk(port: u32) -> u32 {
    (port | (PORTS_PER_CHUNK - 1)) + 1
}

fn chunk<E: Env>(env: &E, record: u64, port: u32) -> u64 {
    env.read(record + CHUNKS + (port / PORTS_PER_CHUNK) as u64 * 8)
}

fn make_chunk<E: Env>(env: &E, space: SpaceRef, record: u64, port: u32) -> Result<(), OutOfMemory> {
    if chunk(env, record, port) == 0 {
        let page = env.alloc_index(env.home(space), false).ok_or(OutOfMemory)?;
        env.write(record + CHUNKS + (port / PORTS_PER_CHUNK) as u64 * 8, page);
    }
    Ok(())
}

/// Number of the record that the port came from; 0: not held. Four to a word.
fn parent<E: Env>(env: &E, record: u64, port: u32) -> u64 {
    let page = chunk(env, record, port);
    if page == 0 {
        return 0;
    }
    let index = port % PORTS_PER_CHUNK;
    env.read(page + (index / 4) as u64 * 8) >> (index % 4 * 16) & 0xFFFF
}

fn set_parent<E: Env>(env: &E, record: u64, port: u32, parent: u64) {
    let index = port % PORTS_PER_CHUNK;
    let at = chunk(env, record, port) + (index / 4) as u64 * 8;
    let shift = index % 4 * 16;
    let word = env.read(at) & !(0xFFFF << shift);
    env.write(at, word | parent << shift);
}

fn clear<E: Env>(env: &E, page: u64, bytes: u64) {
    for at in (page..page + bytes).step_by(8) {
        env.write(at, 0);
    }
}
