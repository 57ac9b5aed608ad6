//! Markers: how a guest tells the placement instrument where a region of interest begins and ends.
//!
//! A marker is one instruction, `nopl disp32(%rax)` = `0F 1F 80 imm32`. It is a documented no-op
//! in every ring of every x86-64 CPU: it touches neither memory, registers nor flags, so a program
//! keeps its markers on real hardware. The immediate is [`MAGIC`]` << 16 | op << 12 | id`. The
//! instrument recognises the seven bytes when the emulator translates them
//! (`docs/design/instrument.md` says what it does with them).
//!
//! How to emit one (in a module that may hold assembly; deliberately without `nomem`, so that the
//! compiler moves no memory access across it):
//!
//! ```ignore
//! asm!(".byte 0x0f,0x1f,0x80", ".long {}", const marker::imm(Op::Begin, id),
//!      options(nostack, preserves_flags));
//! ```
//!
//! Some markers take arguments in registers ([`Op::takes_registers`]). The emulator's API shows a plugin
//! no register, but the values are in its CPU state at the start of a translated block, so these
//! markers must be the *target of a jump*: put `jmp 2f; 2:` in front of them.

/// The upper half of every marker's immediate, `"NM"`.
pub const MAGIC: u32 = 0x4E4D;

/// Opcode and ModRM bytes in front of the immediate.
pub const PREFIX: [u8; 3] = [0x0F, 0x1F, 0x80];

/// Length of a marker instruction in bytes.
pub const LEN: usize = 7;

/// Largest id that fits the twelve bits of the immediate.
pub const MAX_ID: u16 = 0xFFF;

/// Declares [`Op`] together with its conversion and its names, so that they cannot drift apart.
macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// What a marker asks for. The `id` it carries means something different for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Op { $($(#[$doc])* $name = $value,)* }

        impl Op {
            /// Every operation, in order of its number.
            pub const ALL: &'static [Op] = &[$(Op::$name),*];

            /// The operation with this number.
            #[must_use]
            pub const fn from_bits(bits: u8) -> Option<Op> {
                match bits { $($value => Some(Op::$name),)* _ => None }
            }

            /// Its name, for messages.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Op::$name => stringify!($name),)* }
            }
        }
    };
}

ops! {
    /// Opens region `id` on the CPU that executes the marker.
    Begin = 1,
    /// Closes region `id` on the CPU that executes the marker.
    End = 2,
    /// Opens region `id` on *all* CPUs and starts its latency path on this one.
    BeginAll = 3,
    /// Closes region `id` on all CPUs; this one ends its latency path.
    EndAll = 4,
    /// Records this CPU's clock and instruction counts at this point.
    Probe = 5,
    /// "I am CPU number RDI", in the guest's numbering (`id` is not used). The first one starts the
    /// counting; later ones check that the instrument still knows who executes.
    Hello = 6,
    /// "My next store goes to memory of node RDI" (`id` is not used): checks that the instrument knows
    /// where memory lies.
    Place = 7,
    /// Empties all modelled caches and TLBs (`id` is not used).
    Flush = 8,
    /// Region `id` is called by the UTF-8 string at RDI of RSI bytes (at most 64, mapped, readable).
    Name = 9,
    /// Attaches the number in RDI to region `id` (a parameter of the experiment).
    Value = 10,
    /// The measurement is over: the instrument writes its results (`id` is not used).
    SimEnd = 15,
}

impl Op {
    /// Whether it has arguments in RDI (and RSI), and so has to be the target of a jump.
    #[must_use]
    pub const fn takes_registers(self) -> bool {
        matches!(self, Op::Hello | Op::Place | Op::Name | Op::Value)
    }
}

/// The immediate of a marker. `id` above [`MAX_ID`] is a compile-time error in constant context.
#[must_use]
pub const fn imm(op: Op, id: u16) -> u32 {
    assert!(id <= MAX_ID, "marker id has twelve bits");
    MAGIC << 16 | (op as u32) << 12 | id as u32
}

/// The whole instruction.
#[must_use]
pub const fn encode(op: Op, id: u16) -> [u8; LEN] {
    let i = imm(op, id).to_le_bytes();
    [PREFIX[0], PREFIX[1], PREFIX[2], i[0], i[1], i[2], i[3]]
}

/// Recognises a marker in the bytes of one instruction.
#[must_use]
pub fn decode(insn: &[u8]) -> Option<(Op, u16)> {
    let insn: &[u8; LEN] = insn.try_into().ok()?;
    let [p0, p1, p2, i0, i1, i2, i3] = *insn;
    let value = u32::from_le_bytes([i0, i1, i2, i3]);
    if [p0, p1, p2] != PREFIX || value >> 16 != MAGIC {
        return None;
    }
    let op = Op::from_bits((value >> 12 & 0xF) as u8)?;
    Some((op, (value & 0xFFF) as u16))
}

/// Regions that the kernel opens and closes when programs measure interrupts
/// ([`crate::syscall::debugger::SEND_INTERRUPT`]).
pub mod interrupt {
    /// From the command to the interrupt controller to the handler on the other processor.
    pub const DELIVERY: u16 = 0xFF0;
    /// From that command on; the program closes it.
    pub const WHOLE: u16 = 0xFF1;
    /// From the handler on; the program closes it.
    pub const RETURN: u16 = 0xFF2;

    abi_enum! {
        /// What the handler does with a region.
        pub enum AtHandler: u32 {
            /// Nothing.
            Nothing = 0 => "nothing",
            /// It closes [`DELIVERY`].
            Delivered = 1 => "delivered",
            /// It opens [`RETURN`].
            Returns = 2 => "returns",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_marker_decodes_to_itself() {
        for &op in Op::ALL {
            for id in [0, 1, 0x123, MAX_ID] {
                assert_eq!(decode(&encode(op, id)), Some((op, id)));
            }
        }
    }

    #[test]
    fn the_bytes_are_the_documented_ones() {
        let b = encode(Op::Begin, 20);
        assert_eq!(b, [0x0F, 0x1F, 0x80, 0x14, 0x10, 0x4D, 0x4E]);
    }

    #[test]
    fn what_is_no_marker_is_refused() {
        let good = encode(Op::End, 3);
        for byte in [0, 1, 2, 5, 6] {
            let mut bad = good;
            bad[byte] ^= 1;
            assert_eq!(decode(&bad), None, "byte {byte}");
        }
        assert_eq!(decode(&good[..6]), None);
        assert_eq!(decode(&[0x0F, 0x1F, 0x80, 0, 0xB0, 0x4D, 0x4E]), None, "unknown operation");
    }
}
