//! The kernel's memory: what is deleted gives all of it back, and running out is an error that changes nothing
//! (ref 4.5, 4.10; the counters are a debugger call, `l4abi::ext::MemoryCounter`).
//!
//! Every test does its work twice and compares the second time: the first may leave tables of the thread array, which
//! belong to no thread.

use crate::harness::ctx::{PUPPET_PRIORITY, PuppetOptions, kip_area, utcb_area};
use crate::harness::puppet::{Op, Puppet};
use crate::harness::{Ctx, IpcCmd, Place, TestResult, arena, ids};
use crate::{check, check_eq, need, tests};
use l4abi::ext::MemoryCounter;
use libl4::sys::{self, SysError, ThreadControl};
use libl4::{ErrorCode, Fpage, MsgTag, NodeId, Rights, ThreadId, ThreadNo, arch, thread};

tests! {
    sp_deleted_space_returns_frames, Once, "a deleted space of two threads and spread mappings returns every frame it held";
    sp_threads_run_out_of_memory, Once, "ThreadControl without memory: error 8, everybody else goes on, deletion returns every frame";
    sp_deleted_threads_make_room, Once, "without other memory, a space is made of what threads just deleted had";
    sp_spaces_run_out_of_memory, Once, "the same for spaces, in the middle of ThreadControl and of SpaceControl";
    sp_maps_run_out_of_memory, Once, "a receiver's page tables take all memory: the message ends well, deletion returns every frame";
}

/// A number of threads that no pool of the machines has room for.
const MANY: u32 = 100_000;
/// Thread numbers that nobody else uses begin here.
const FIRST: u32 = 0x10000;

/// Frames in use on all nodes.
fn used() -> u64 {
    sum(MemoryCounter::Used)
}

fn sum(counter: MemoryCounter) -> u64 {
    (0..64).filter_map(|node| arch::kernel_memory(NodeId(node), counter)).sum()
}

fn nobody(n: u32) -> ThreadId {
    ThreadId::global(ThreadNo(FIRST + n), 1)
}

/// The creation of `id`, inactive, as the first thread of a space of its own.
fn first_of_space(ctx: &Ctx, id: ThreadId) -> ThreadControl {
    ThreadControl {
        dest: id,
        space: id,
        scheduler: ctx.me(),
        pager: ThreadId::NIL,
        utcb: Some(ids::puppet_utcb(ids::FIRST_PUPPET)),
    }
}

fn delete_all(nr_threads: u32) -> TestResult {
    for n in 0..nr_threads {
        need!(thread::delete(nobody(n)));
    }
    Ok(())
}

/// Somebody in another space who has touched all that he needs to answer.
fn bystander(ctx: &mut Ctx) -> TestResult<Puppet> {
    let puppet = ctx.puppet_at(Place::Remote)?;
    puppet.run(Op::KernelInterface, &[])?;
    Ok(puppet)
}

/// Runs `work` twice and demands that the second time left nothing behind.
fn leaves_nothing(mut work: impl FnMut() -> TestResult) -> TestResult {
    work()?;
    let before = used();
    work()?;
    check_eq!(used(), before, "frames in use");
    Ok(())
}

/// Maps `nr_pages` pages from `target` on, each with page tables of its own, into the space of `to`.
fn map_spread(ctx: &mut Ctx, to: &Puppet, first: u64, nr_pages: u64) -> TestResult {
    const APART: u64 = 2 << 20;
    let mut items = [0; 60];
    for (n, words) in (0..nr_pages).zip(items.chunks_exact_mut(2)) {
        let page = Fpage::memory(arena::page(64 + n), 12, Rights::RWX);
        words.copy_from_slice(&l4abi::item::map_item(first + n * APART, page));
    }
    to.start_ipc(&IpcCmd::receive(ctx.me()).brs(&[0x10]))?;
    let words = &items[..nr_pages as usize * 2];
    let sent = ctx.ipc(&IpcCmd::send(to.id).message(MsgTag::new(1, 0, words.len()), words));
    check!(!sent.tag.is_error(), "{:?}", sent.ipc_error());
    to.finish()?;
    Ok(())
}

fn sp_deleted_space_returns_frames(ctx: &mut Ctx) -> TestResult {
    const TARGET: u64 = 0x200_0000_0000;
    leaves_nothing(|| {
        let one = ctx.puppet_at(Place::Remote)?;
        let beside = PuppetOptions {
            place: Place::Remote,
            space_of: Some(one.id),
            priority: PUPPET_PRIORITY,
        };
        let two = ctx.puppet_with(beside)?;
        map_spread(ctx, &one, TARGET, 20)?;
        check_eq!(
            two.run(Op::Read, &[TARGET])?.results[0],
            two.run(Op::Read, &[TARGET])?.results[0]
        );
        need!(thread::delete(one.id));
        need!(thread::delete(two.id));
        Ok(())
    })
}

/// Makes inactive threads of this space until there is no memory for another; their number.
fn threads_until_none(ctx: &Ctx) -> TestResult<u32> {
    let mut made = 0;
    let refused = loop {
        check!(made < MANY, "memory never ran out");
        let create = ThreadControl {
            dest: nobody(made),
            space: ctx.me(),
            scheduler: ctx.me(),
            pager: ThreadId::NIL,
            utcb: None,
        };
        match sys::thread_control(create) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    check_eq!(SysError::code(refused), Some(ErrorCode::OutOfMemory), "after {made} threads");
    Ok(made)
}

fn sp_threads_run_out_of_memory(ctx: &mut Ctx) -> TestResult {
    let bystander = bystander(ctx)?;
    leaves_nothing(|| {
        let made = threads_until_none(ctx)?;
        check_eq!(bystander.run(Op::KernelInterface, &[])?.results[0], ids::PUPPET_KIP);
        delete_all(made)
    })
}

/// The kernel keeps control blocks of deleted threads for the next ones. A space needs other pages.
fn sp_deleted_threads_make_room(ctx: &mut Ctx) -> TestResult {
    // Fewer than the kernel keeps.
    const DELETED: u32 = 15;
    leaves_nothing(|| {
        let made = threads_until_none(ctx)?;
        for n in made - DELETED..made {
            need!(thread::delete(nobody(n)));
        }
        let id = nobody(made);
        need!(sys::thread_control(first_of_space(ctx, id)));
        need!(thread::delete(id));
        delete_all(made - DELETED)
    })
}

fn sp_spaces_run_out_of_memory(ctx: &mut Ctx) -> TestResult {
    let bystander = bystander(ctx)?;
    leaves_nothing(|| {
        let mut made = 0;
        let refused = loop {
            check!(made < MANY, "memory never ran out");
            let id = nobody(made);
            let create = first_of_space(ctx, id);
            if let Err(error) = sys::thread_control(create) {
                break error;
            }
            made += 1;
            if let Err(error) = sys::space_control(id, 0, kip_area(), utcb_area(), ThreadId::NIL) {
                break error;
            }
            // Active, so that it needs a UTCB; the pager never hears of it.
            let activate = ThreadControl { pager: ids::pager(), utcb: None, ..create };
            if let Err(error) = sys::thread_control(activate) {
                break error;
            }
        };
        check_eq!(SysError::code(refused), Some(ErrorCode::OutOfMemory), "after {made} spaces");
        check_eq!(bystander.run(Op::KernelInterface, &[])?.results[0], ids::PUPPET_KIP);
        delete_all(made)
    })
}

fn sp_maps_run_out_of_memory(ctx: &mut Ctx) -> TestResult {
    let bystander = bystander(ctx)?;
    leaves_nothing(|| {
        let greedy = ctx.puppet_at(Place::Remote)?;
        let failures = sum(MemoryCounter::Failures);
        let mut target = 0x200_0000_0000u64;
        while sum(MemoryCounter::Failures) == failures {
            check!(target < 0x280_0000_0000, "memory never ran out");
            map_spread(ctx, &greedy, target, 30)?;
            target += 30 * (2 << 20);
        }
        check_eq!(bystander.run(Op::KernelInterface, &[])?.results[0], ids::PUPPET_KIP);
        need!(thread::delete(greedy.id));
        Ok(())
    })
}
