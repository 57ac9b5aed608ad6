//! Layer 1: traps arrive, and the processor enforces the protection that the tables ask for.

use kcore::layout::{self, CPU_LOCAL, KERNEL_BASE, PAGE_SIZE, cpu_local};

use super::{Text, Verdict, check, seen};
use crate::arch::x86_64::paging;
use crate::arch::x86_64::selftest::{self as probe, Provoked};
use crate::arch::x86_64::{image, vectors};
use crate::{cpu, machine, memory};

/// Page fault error code: the page is there, the access is not allowed (SDM 3A 4.7).
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 4;

/// The outcome must be this trap.
fn expect(what: &str, outcome: Option<Provoked>, vector: u8) -> Result<Provoked, Text> {
    match outcome {
        Some(trap) if trap.vector == vector => Ok(trap),
        Some(trap) => Err(Text::new(format_args!("{what}: trap {} instead", trap.vector))),
        None => Err(Text::new(format_args!("{what}: no trap"))),
    }
}

/// The outcome must be a page fault at `at` with this error code.
fn expect_fault(what: &str, outcome: Option<Provoked>, at: u64, error: u64) -> Result<(), Text> {
    let trap = expect(what, outcome, vectors::PAGE_FAULT)?;
    check!(trap.address == at, "{what}: CR2 is {:#x}, not {at:#x}", trap.address);
    check!(trap.error == error, "{what}: error code {:#x}, not {error:#x}", trap.error);
    Ok(())
}

/// `int3` arrives and returns.
pub fn breakpoint() -> Verdict {
    for _ in 0..100 {
        expect("int3", probe::breakpoint(), vectors::BREAKPOINT)?;
    }
    seen!("100 breakpoints")
}

/// An undefined instruction arrives.
pub fn undefined() -> Verdict {
    expect("ud2", probe::undefined(), vectors::INVALID_OPCODE)?;
    seen!("invalid opcode")
}

/// An NMI arrives, on its own stack, and the next one does too.
pub fn nmi() -> Verdict {
    for _ in 0..3 {
        check!(probe::own_nmi(), "no NMI after it was sent to itself");
    }
    seen!("3 NMIs")
}

/// Addresses without a mapping fault: nothing of the loaders' tables is left.
pub fn unmapped() -> Verdict {
    let kernel_at_load = image::text().start - KERNEL_BASE.as_u64();
    let places = [
        ("address 0", 0),
        ("the trampoline", layout::TRAMPOLINE.as_u64()),
        ("the load address", kernel_at_load),
        ("low memory in the window", layout::PHYS_OFFSET + layout::TRAMPOLINE.as_u64()),
        ("below the image", KERNEL_BASE.as_u64()),
        ("the end of the window", CPU_LOCAL.as_u64() + layout::CPU_LOCAL_SIZE - 8),
    ];
    for (what, at) in places {
        expect_fault(what, probe::read(at), at, 0)?;
    }
    seen!("{} places", places.len())
}

/// Addresses that are not canonical are protection faults.
pub fn not_canonical() -> Verdict {
    let at = 0x0000_8000_0000_0000;
    expect("not canonical", probe::read(at), vectors::GENERAL_PROTECTION)?;
    seen!("general protection fault")
}

/// Read-only kernel pages cannot be written, not even by the kernel (CR0.WP).
pub fn write_protection() -> Verdict {
    let places = [
        ("text", image::text().start),
        ("read-only data", image::rodata().start),
        ("interrupt table", paging::IDT_PAGE),
        ("CPU table", paging::NODE_PAGE),
        ("I/O bitmap", CPU_LOCAL.as_u64() + cpu_local::IO_BITMAP),
        ("absent thread", layout::TCB_AREA.as_u64() + layout::TCB_SIZE * 3),
        (
            "last absent thread",
            layout::TCB_AREA.as_u64() + layout::TCB_SIZE * (layout::NR_THREADS - 1),
        ),
    ];
    for (what, at) in places {
        expect_fault(what, probe::write(at), at, PRESENT | WRITE)?;
    }
    let writable = CPU_LOCAL.as_u64() + cpu_local::USER_WORD_ALIAS;
    check!(probe::write(writable).is_none(), "the user word's alias cannot be written");
    seen!("{} places", places.len())
}

/// Nothing writable can be executed, nor read-only data.
pub fn execute_protection() -> Verdict {
    const RETURN: u64 = 0xc3c3_c3c3_c3c3_c3c3;
    let Ok(page) = memory::alloc_page(cpu::this().identity.node) else {
        return Err(Text::new(format_args!("no page to try")));
    };
    probe::pool_word(page).store(RETURN, core::sync::atomic::Ordering::Relaxed);
    let at = page.window().as_u64();
    let outcome = probe::execute(at);
    probe::pool_word(page).store(0, core::sync::atomic::Ordering::Relaxed);
    check!(memory::pools().free_at(page) == Ok(0), "the page could not be freed");
    expect_fault("pool memory", outcome, at, PRESENT | FETCH)?;
    let places = [
        ("read-only data", image::rodata().start),
        ("data", image::data().start),
        ("kernel stack", CPU_LOCAL.as_u64() + cpu_local::KERNEL_STACK),
        ("CPU block", CPU_LOCAL.as_u64()),
        ("absent thread", layout::TCB_AREA.as_u64()),
        ("interrupt table", paging::IDT_PAGE),
    ];
    for (what, at) in places {
        expect_fault(what, probe::execute(at), at, PRESENT | FETCH)?;
    }
    seen!("{} places", places.len() + 1)
}

/// The kernel can neither read user pages (SMAP) nor execute them (SMEP), where the processor has that.
pub fn user_pages() -> Verdict {
    let features = machine::get().features;
    let word = CPU_LOCAL.as_u64() + cpu_local::USER_WORD;
    let stubs = layout::STUB_PAGE.as_u64();
    if features.smap {
        expect_fault("reading the user word", probe::read(word), word, PRESENT)?;
        expect_fault("reading the stubs", probe::read(stubs), stubs, PRESENT)?;
    }
    if features.smep {
        expect_fault("executing the stubs", probe::execute(stubs), stubs, PRESENT | FETCH)?;
    }
    seen!("SMAP {}, SMEP {}, UMIP {}", features.smap, features.smep, features.umip)
}

/// There is nothing below each stack of this CPU.
pub fn stack_guards() -> Verdict {
    let stacks = [
        ("kernel stack", cpu_local::KERNEL_STACK),
        ("NMI stack", cpu_local::NMI_STACK),
        ("double-fault stack", cpu_local::DOUBLE_FAULT_STACK),
        ("machine-check stack", cpu_local::MACHINE_CHECK_STACK),
    ];
    for (what, offset) in stacks {
        let bottom = CPU_LOCAL.as_u64() + offset;
        for at in [bottom - 8, bottom - PAGE_SIZE] {
            expect_fault(what, probe::write(at), at, WRITE)?;
        }
        check!(probe::read(bottom).is_none(), "{what}: its lowest word cannot be read");
    }
    seen!("{} stacks", stacks.len())
}
