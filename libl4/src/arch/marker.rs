//! The marker instructions of `l4abi::marker`. Deliberately without `nomem`: the compiler moves no
//! memory access across them.

use core::arch::asm;
use l4abi::marker::{Op, imm};

macro_rules! plain {
    ($($name:ident = $op:ident),*) => {$(
        /// The marker of this name.
        #[inline(always)]
        pub fn $name<const ID: u16>() {
            // SAFETY: a no-op.
            unsafe {
                asm!(".byte 0x0f, 0x1f, 0x80", ".long {}", const imm(Op::$op, ID),
                     options(nostack, preserves_flags));
            }
        }
    )*};
}

plain!(
    begin = Begin,
    end = End,
    begin_all = BeginAll,
    end_all = EndAll,
    probe = Probe,
    flush = Flush,
    sim_end = SimEnd
);

macro_rules! with_arguments {
    ($op:ident, $id:ident, $rdi:expr, $rsi:expr) => {
        // SAFETY: a no-op; the target of a jump, so that the instrument can read the registers.
        unsafe {
            asm!("jmp 2f", "2: .byte 0x0f, 0x1f, 0x80", ".long {}", const imm(Op::$op, $id),
                 in("rdi") $rdi, in("rsi") $rsi, options(nostack, preserves_flags));
        }
    };
}

/// NAME: the instrument reads the string, which therefore must be mapped; it is touched first.
pub fn name<const ID: u16>(name: &str) {
    core::hint::black_box(name.bytes().fold(0u8, u8::wrapping_add));
    with_arguments!(Name, ID, name.as_ptr(), name.len());
}

/// VALUE.
pub fn value<const ID: u16>(value: u64) {
    with_arguments!(Value, ID, value, 0u64);
}

/// PLACE.
pub fn place<const ID: u16>(node: u64) {
    with_arguments!(Place, ID, node, 0u64);
}
