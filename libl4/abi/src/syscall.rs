//! System call numbers (architecture 4).
//!
//! User programs never see them: a stub in the kernel's stub page puts the number into EBP. The
//! order is that of the links in the KIP, so that a link's offset follows from the number.

abi_enum! {
    /// The calls behind the eleven links of the KIP.
    pub enum SyscallNo: u32 {
        /// SpaceControl.
        SpaceControl = 0 => "SpaceControl",
        /// ThreadControl.
        ThreadControl = 1 => "ThreadControl",
        /// ProcessorControl.
        ProcessorControl = 2 => "ProcessorControl",
        /// MemoryControl.
        MemoryControl = 3 => "MemoryControl",
        /// Ipc.
        Ipc = 4 => "Ipc",
        /// Lipc.
        Lipc = 5 => "Lipc",
        /// Unmap.
        Unmap = 6 => "Unmap",
        /// ExchangeRegisters.
        ExchangeRegisters = 7 => "ExchangeRegisters",
        /// SystemClock.
        SystemClock = 8 => "SystemClock",
        /// ThreadSwitch.
        ThreadSwitch = 9 => "ThreadSwitch",
        /// Schedule.
        Schedule = 10 => "Schedule",
    }
}

/// Number of calls.
pub const COUNT: usize = 11;

/// KIP offset of the first link (ref 3.1).
pub const FIRST_LINK: usize = 0x1A0;

impl SyscallNo {
    /// KIP offset of the call's link.
    #[must_use]
    pub const fn link_offset(self) -> usize {
        FIRST_LINK + 8 * self.raw() as usize
    }
}

const _: () = {
    assert!(SyscallNo::ALL.len() == COUNT);
    assert!(SyscallNo::Ipc.link_offset() == 0x1C0);
    assert!(SyscallNo::Schedule.link_offset() == 0x1F0);
};

/// The bytes of the KernelInterface instruction, `lock; nop` (ref 4.2).
pub const KERNEL_INTERFACE_INSN: [u8; 2] = [0xF0, 0x90];

/// Bytes after `int3` that select a kernel debugger call (ref 7.4).
pub mod debugger {
    /// `cmpb $0,%al`: print the character in AL.
    pub const PRINT_CHAR: [u8; 2] = [0x3C, 0x00];
    /// `cmpb $1,%al`: print the NUL-terminated string at RAX.
    pub const PRINT_STRING: [u8; 2] = [0x3C, 0x01];
    /// `cmpb $8,%al`: AL = a character, 0xFF if there is none.
    pub const READ_CHAR: [u8; 2] = [0x3C, 0x08];
    /// `cmpb $0xd,%al`: AL = a character, waits for it.
    pub const READ_CHAR_BLOCKED: [u8; 2] = [0x3C, 0x0D];
    /// `cmpb $0x4d,%al`: RAX = counter RSI of the kernel memory of node RDI ([`crate::ext::MemoryCounter`]).
    pub const KERNEL_MEMORY: [u8; 2] = [0x3C, 0x4D];
    /// `cmpb $0x4e,%al`: RAX = counter RSI of processor RDI ([`crate::ext::CpuCounter`]).
    pub const CPU_COUNTER: [u8; 2] = [0x3C, 0x4E];
    /// `cmpb $0x4f,%al`: interrupts processor RDI; RAX = the time-stamp counter just before, or
    /// [`crate::ext::NO_COUNTER`] if that was refused. RSI: a region of [`crate::marker::interrupt`] that begins then, 0 for none.
    pub const SEND_INTERRUPT: [u8; 2] = [0x3C, 0x4F];
    /// `cmpb $0x50,%al`: the next interrupt of that kind that finds the caller running sets its carry flag, which is clear
    /// until then: the caller goes on behind the comparison. RSI: what the handler does with a region, as
    /// [`crate::marker::interrupt::AtHandler`] says.
    pub const EXPECT_INTERRUPT: [u8; 2] = [0x3C, 0x50];
    /// `cmpb $0x51,%al`: RAX = how processor RDI reads hardware counter RSI ([`crate::ext::hardware_counter`]).
    pub const HARDWARE_COUNTER: [u8; 2] = [0x3C, 0x51];
    /// `cmpb $0x52,%al`: RAX = number of things that lie on another node than they should (DESIGN principle 1), after a
    /// `placement` record; [`crate::ext::NO_COUNTER`] unless the kernel option `placement_check` allows it.
    pub const PLACEMENT: [u8; 2] = [0x3C, 0x52];

    /// The message of an Enter by which a program says that it is about to leave the machine: a tracing kernel
    /// prints its trace then, and with `placement_check` the kernel looks where everything lies. Elsewhere it is like any other message.
    pub const LEAVING: &[u8; 8] = b"leaving\0";
    /// Directly after `int3` in an Enter: print the message, but do not enter the debugger.
    pub const NOP: u8 = 0x90;
}

/// The debug-exit port and its codes (architecture 3).
pub mod debug_exit {
    /// The port of QEMU's `isa-debug-exit`: writing `v` ends the emulator with exit status `2 v + 1`.
    pub const PORT: u16 = 0xF4;
    /// Everything went well.
    pub const SUCCESS: u32 = 0x10;
    /// Tests failed.
    pub const FAILED: u32 = 0x11;
    /// The kernel panicked.
    pub const KERNEL_PANIC: u32 = 0x12;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for (i, &call) in SyscallNo::ALL.iter().enumerate() {
            assert_eq!(call.raw() as usize, i);
            assert_eq!(SyscallNo::from_raw(i as u32), Some(call));
        }
        assert_eq!(SyscallNo::from_raw(11), None);
    }
}
