//! Programs that do everything wrong: the kernel must answer with errors or faults, and nobody else
//! may notice. A test passes if a bystander still works afterwards.

mod calls;
mod contexts;
mod memory;

use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, Place, Puppet, Test, TestResult};
use crate::{check, check_eq};
use l4abi::utcb::word;
use libl4::{Time, Timeouts};

/// The groups of this area.
pub const GROUPS: &[&[Test]] = &[calls::TESTS, contexts::TESTS, memory::TESTS];

/// Pseudo-random words, biased towards values that look like something.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A word: random, small, all ones, an address of some half, or one of `likely`.
    fn word(&mut self, likely: &[u64]) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => self.below(64),
            2 => !self.below(64),
            3 => 0xFFFF_8000_0000_0000 | self.next() >> 17,
            4 => self.next() >> 17,
            5 => 1 << self.below(64),
            _ if likely.is_empty() => 0,
            _ => likely[self.below(likely.len() as u64) as usize],
        }
    }
}

/// Checks that a fresh pair of threads still talks, and that time still passes.
fn world_is_fine(ctx: &mut Ctx) -> TestResult {
    let bystander = ctx.puppet_at(Place::Remote)?;
    bystander.start_ipc(&IpcCmd::call(ctx.me()).words(1, &[41]))?;
    let got = ctx.ipc(&IpcCmd::receive(bystander.id));
    check_eq!(got.mr[1], 41, "the bystander's message");
    check!(!ctx.ipc(&IpcCmd::send(bystander.id).words(1, &[42])).tag.is_error());
    check_eq!(bystander.finish()?.mr[1], 42, "the answer");
    let own = bystander.run(Op::ReadTcr, &[word::MY_GLOBAL_ID as u64])?;
    check_eq!(own.results[0], bystander.id.raw(), "the bystander's id");
    let nap = ctx.ipc(&IpcCmd::receive(ctx.me()).timeouts(Time::NEVER, Time::period_us(1_000)));
    check!(nap.took_us < 500_000, "a nap took {} us", nap.took_us);
    Ok(())
}

/// Short timeouts, so that whatever a random IPC waits for ends.
fn short(random: &mut Random) -> Timeouts {
    let times = [Time::ZERO, Time::period_us(50), Time::period_us(300)];
    let pick = |random: &mut Random| times[random.below(3) as usize];
    Timeouts::new(pick(random), pick(random))
}

/// The ids that are worth attacking.
fn targets(ctx: &Ctx, puppet: &Puppet) -> [u64; 8] {
    [
        ctx.me().raw(),
        puppet.id.raw(),
        puppet.local_id().raw(),
        crate::harness::ids::pager().raw(),
        libl4::sigma0::id().raw(),
        crate::harness::ids::controller().raw(),
        libl4::ThreadId::irq(3).raw(),
        u64::MAX,
    ]
}
