//! The debugger calls of the reference (7.4): `int3` with a marker instruction behind it. Console output and input
//! are there in every build; nothing else is needed by programs.
//!
//! A kernel with the feature `kdb` (`cargo xtask run --debug`) has a debugger behind them (`debugger`), which an Enter,
//! the escape key or a panic opens: docs/design/debugger.md.

#[cfg_attr(feature = "kdb", path = "debugger.rs")]
#[cfg_attr(not(feature = "kdb"), path = "absent.rs")]
mod debugger;

pub use debugger::{Held, hold, kept, look, on_line, panicked, start, stopped, typed};

use crate::memory::counters;
use crate::sched::Next;
use crate::sched::percpu::PerCpu;
use crate::space::user;
use crate::thread::tcb::{TcbRef, reg};
use crate::{arch, console, survey};
use l4abi::syscall::debugger as debugger_call;

/// Longest string one call prints.
const LINE: usize = 512;

/// A breakpoint at user level; RIP is behind it.
pub fn breakpoint(cpu: &PerCpu, me: TcbRef) -> Next {
    let Some(space) = me.space.get() else { return Next::Schedule };
    let mut code = [0u8; 2];
    user::read_some(space, me.reg(reg::RIP), &mut code);
    match code {
        debugger_call::PRINT_CHAR => console::print_bytes(&[me.reg(reg::RAX) as u8]),
        debugger_call::PRINT_STRING => print_string(space, me.reg(reg::RAX)),
        debugger_call::READ_CHAR => read_char(me, false),
        debugger_call::READ_CHAR_BLOCKED => return read_blocked(me),
        debugger_call::KERNEL_MEMORY => {
            me.set_reg(reg::RAX, counters::read(me.reg(reg::RDI), me.reg(reg::RSI)));
        }
        debugger_call::CPU_COUNTER => {
            let value = crate::cross::counters::read(me.reg(reg::RDI), me.reg(reg::RSI));
            me.set_reg(reg::RAX, value);
        }
        debugger_call::SEND_INTERRUPT => {
            let sent = crate::measure::send(me.reg(reg::RDI), me.reg(reg::RSI));
            me.set_reg(reg::RAX, sent);
        }
        debugger_call::EXPECT_INTERRUPT => crate::measure::expect(me, me.reg(reg::RSI)),
        debugger_call::HARDWARE_COUNTER => {
            let answer = arch::x86_64::perf::answer(me.reg(reg::RDI), me.reg(reg::RSI));
            me.set_reg(reg::RAX, answer);
        }
        debugger_call::PLACEMENT => return survey::begin(cpu, me, true),
        _ => return enter(cpu, me, code),
    }
    Next::Thread(me)
}

fn print_string(space: &crate::space::Space, at: u64) {
    let mut line = [0u8; LINE];
    let read = user::read_some(space, at, &mut line);
    let end = line[..read].iter().position(|&b| b == 0).unwrap_or(read);
    console::print_bytes(&line[..end]);
}

fn read_char(me: TcbRef, _blocked: bool) {
    let value = console::read_byte().map_or(0xFF, u64::from);
    look();
    me.set_reg(reg::RAX, me.reg(reg::RAX) & !0xFF | value);
}

/// Waits for a character by executing the breakpoint again, so that others run meanwhile.
fn read_blocked(me: TcbRef) -> Next {
    let byte = console::read_byte();
    look();
    match byte {
        Some(byte) => {
            me.set_reg(reg::RAX, me.reg(reg::RAX) & !0xFF | u64::from(byte));
            Next::Thread(me)
        }
        None => {
            me.set_reg(reg::RIP, me.reg(reg::RIP) - 1);
            arch::x86_64::cpulocal::interrupt_window();
            crate::sched::yield_slice(crate::sched::this_cpu(), me)
        }
    }
}

/// The message of an 'Enter' that asks for the cross-CPU counters as records.
const COUNTERS: &[u8; 8] = b"counters";

/// 'Enter': says the message and goes on. A NOP before the jump asks for nothing more in any kernel.
fn enter(cpu: &PerCpu, me: TcbRef, code: [u8; 2]) -> Next {
    const JUMP_OVER: u8 = 0xEB;
    let Some(space) = me.space.get() else { return Next::Schedule };
    let jump = me.reg(reg::RIP) + u64::from(code[0] == debugger_call::NOP);
    let mut text = [0u8; 9];
    user::read_some(space, jump, &mut text);
    if text[0] == JUMP_OVER && text[2..5] == [0x48, 0xC7, 0xC0] {
        let at = i64::from(i32::from_le_bytes([text[5], text[6], text[7], text[8]])) as u64;
        let mut word = [0u8; COUNTERS.len()];
        user::read_some(space, at, &mut word);
        if &word == COUNTERS {
            crate::cross::counters::print();
        } else if &word == debugger_call::LEAVING {
            crate::trace::print();
            return survey::begin(cpu, me, false);
        } else {
            crate::console::print(format_args!("--- thread {:#x}: ", me.id.get()));
            print_string(space, at);
            crate::println!(" ---");
            if code[0] != debugger_call::NOP {
                debugger::enter(format_args!("thread {:#x} asks for it", me.id.get()));
            }
        }
    }
    Next::Thread(me)
}
