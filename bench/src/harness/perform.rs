//! What a puppet does for each command but IPC.

use super::puppet::{Op, TRAPS};
use core::sync::atomic::{AtomicU64, Ordering};
use libl4::arch::{self, ExregsFrame, utcb};

/// A word of the running thread's TCRs by its index relative to MR0 (ref 2.1). Out of range: none.
fn tcr(index: u64) -> Option<&'static AtomicU64> {
    let utcb = utcb();
    let tcrs = [
        &utcb.my_global_id,
        &utcb.processor_no,
        &utcb.user_defined_handle,
        &utcb.pager,
        &utcb.exception_handler,
        &utcb.flags,
        &utcb.error_code,
        &utcb.xfer_timeouts,
        &utcb.intended_receiver,
        &utcb.sender,
        &utcb.thread_word1,
        &utcb.thread_word0,
    ];
    let at = (index as i64).checked_sub(l4abi::utcb::word::MY_GLOBAL_ID as i64)?;
    tcrs.get(usize::try_from(at).ok()?).copied()
}

fn error_code() -> u64 {
    utcb().error_code.load(Ordering::Relaxed)
}

fn pair(result: arch::Pair) -> [u64; 8] {
    [result.rax, error_code(), result.rdx, 0, 0, 0, 0, 0]
}

fn first(word: u64) -> [u64; 8] {
    [word, 0, 0, 0, 0, 0, 0, 0]
}

/// Executes a command. `stop` and `count` serve [`Op::Spin`]; `mr` are the block's message registers.
pub(super) fn command(
    op: Op,
    a: [u64; 8],
    stop: &AtomicU64,
    mr: &[AtomicU64],
    count: &AtomicU64,
) -> [u64; 8] {
    // What a call fails to report must not look like an old error.
    utcb().error_code.store(0, Ordering::Relaxed);
    match op {
        Op::Ipc => [0; 8],
        Op::Read => first(u64::from(arch::touch_read(a[0]))),
        Op::Write => {
            arch::poke(a[0], a[1]);
            first(1)
        }
        Op::Execute => first(u64::from(arch::probe::execute_ret(a[0]))),
        Op::Exregs => exregs(a),
        Op::ThreadControl => pair(arch::thread_control(a[0], a[1], a[2], a[3], a[4])),
        Op::SpaceControl => pair(arch::space_control(a[0], a[1], a[2], a[3], a[4])),
        Op::Schedule => pair(arch::schedule(a[0], a[1], a[2], a[3], a[4])),
        Op::ProcessorControl => pair(arch::processor_control(a[0], a[1], a[2], a[3], 0)),
        Op::MemoryControl => {
            load_mrs(mr);
            let result = arch::memory_control(a[0], &[a[1], 0, 0, 0]);
            [result, error_code(), 0, 0, 0, 0, 0, 0]
        }
        Op::Unmap => {
            load_mrs(mr);
            arch::unmap(a[0]);
            for (i, slot) in mr.iter().enumerate() {
                slot.store(utcb().load_mr(i), Ordering::Relaxed);
            }
            first(1)
        }
        Op::ThreadSwitch => {
            arch::thread_switch(a[0]);
            first(1)
        }
        Op::Spin => {
            let mut n = 0u64;
            while stop.load(Ordering::Acquire) == 0 {
                n += 1;
                count.store(n, Ordering::Release);
            }
            first(n)
        }
        Op::ReadTcr => first(tcr(a[0]).map_or(0, |word| word.load(Ordering::Relaxed))),
        Op::WriteTcr => {
            if let Some(word) = tcr(a[0]) {
                word.store(a[1], Ordering::Relaxed);
            }
            first(1)
        }
        Op::Raise => first(arch::probe::raise(TRAPS[a[0] as usize % TRAPS.len()], a[1])),
        Op::PortIn => first(u64::from(arch::port_read(a[0] as u16))),
        Op::KernelInterface => {
            let ki = arch::kernel_interface();
            let changes = arch::probe::kernel_interface_changes();
            [ki.kip, ki.api_version, ki.api_flags, ki.kernel_id, changes, 0, 0, 0]
        }
        Op::FpuSet => {
            arch::probe::fpu_set(a[0]);
            first(1)
        }
        Op::FpuGet => {
            let (low, high) = arch::probe::fpu_get();
            [low, high, 0, 0, 0, 0, 0, 0]
        }
    }
}

fn load_mrs(mr: &[AtomicU64]) {
    for (i, slot) in mr.iter().enumerate() {
        utcb().store_mr(i, slot.load(Ordering::Relaxed));
    }
}

fn exregs(a: [u64; 8]) -> [u64; 8] {
    let mut frame = ExregsFrame {
        rax_dest: a[0],
        rsi_control: a[1],
        rdx_sp: a[2],
        r8_ip: a[3],
        r9_flags: a[4],
        r10_handle: a[5],
        rdi_pager: a[6],
    };
    arch::exchange_registers(&mut frame);
    [
        frame.rax_dest,
        frame.rsi_control,
        frame.rdx_sp,
        frame.r8_ip,
        frame.r9_flags,
        frame.r10_handle,
        frame.rdi_pager,
        error_code(),
    ]
}
