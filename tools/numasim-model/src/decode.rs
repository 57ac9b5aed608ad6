//! Which instructions are of interest: a small length-free decoder over the bytes of one instruction.
//!
//! It is given exactly one instruction and only has to skip prefixes and look at the opcode (SDM 2,
//! chapter 2 and appendix A). In 16- and 32-bit code 40h to 4Fh are no REX prefixes; such code is
//! decoded as if they were, which can at worst misread an INC in front of something else in firmware.

use crate::{counters::Count, cpu::Operand};

/// What the plugin has to know about an instruction besides its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Counter to advance when it executes.
    pub count: Option<Count>,
    /// It takes part in a bus lock (LOCK prefix, or XCHG with memory).
    pub locked: bool,
    /// A string instruction with a repeat prefix: the emulator executes it once per element.
    pub repeated: bool,
    /// It loads the interrupt descriptor table register from memory.
    pub lidt: bool,
}

impl Traits {
    /// Nothing of interest.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Traits::default()
    }
}

/// Looks at one instruction.
#[must_use]
pub fn traits(insn: &[u8]) -> Traits {
    let mut t = Traits::default();
    let mut rest = insn;
    let (mut repeat, mut operand16, mut rex_r) = (false, false, false);
    while let [byte, tail @ ..] = rest {
        match byte {
            0xF0 => t.locked = true,
            0xF2 | 0xF3 => repeat = true,
            0x66 => operand16 = true,
            0x67 | 0x2E | 0x36 | 0x3E | 0x26 | 0x64 | 0x65 => {}
            0x40..=0x4F => rex_r = byte & 4 != 0,
            _ => break,
        }
        rest = tail;
    }
    match rest {
        [0x0F, tail @ ..] => two_byte(&mut t, tail, operand16, rex_r),
        [0x86 | 0x87, modrm, ..] if modrm >> 6 != 3 => t.locked = true,
        [0xA4..=0xA7 | 0xAA..=0xAF, ..] => t.repeated = repeat,
        [0xCC | 0xCD, ..] => t.count = Some(Count::SoftInt),
        [0xCF, ..] => t.count = Some(Count::Iret),
        [0xE4..=0xE7 | 0xEC..=0xEF, ..] => t.count = Some(Count::PortIo),
        [0x6C..=0x6F, ..] => {
            t.count = Some(Count::PortIo);
            t.repeated = repeat;
        }
        [0xF4, ..] => t.count = Some(Count::Hlt),
        [0x90, ..] if repeat => t.count = Some(Count::Pause),
        _ => {}
    }
    t
}

fn two_byte(t: &mut Traits, rest: &[u8], operand16: bool, rex_r: bool) {
    t.count = match rest {
        [0x05, ..] => Some(Count::Syscall),
        [0x07, ..] => Some(Count::Sysret),
        [0x22, modrm, ..] => match modrm >> 3 & 7 {
            3 if !rex_r => Some(Count::Cr3Write),
            0 | 4 if !rex_r => Some(Count::ModeWrite),
            _ => None,
        },
        [0x30, ..] => Some(Count::Wrmsr),
        [0x32, ..] => Some(Count::Rdmsr),
        [0x01, modrm, ..] => match (modrm >> 6, modrm >> 3 & 7) {
            (0..=2, 3) => {
                t.lidt = true;
                None
            }
            (0..=2, 7) => Some(Count::Invlpg),
            (3, 7) if modrm & 7 == 0 => Some(Count::Swapgs),
            _ => None,
        },
        [0x38, 0x82, ..] if operand16 => Some(Count::Invpcid),
        [0xA2, ..] => Some(Count::Cpuid),
        // FXSAVE, FXRSTOR, XSAVE, XRSTOR, XSAVEOPT (memory forms), XSAVEC, XSAVES, XRSTORS.
        [0xAE, modrm, ..] if modrm >> 6 != 3 && matches!(modrm >> 3 & 7, 0 | 1 | 4 | 5 | 6) => {
            Some(Count::FpuState)
        }
        [0xC7, modrm, ..] if modrm >> 6 != 3 && matches!(modrm >> 3 & 7, 3..=5) => {
            Some(Count::FpuState)
        }
        _ => None,
    };
}

/// The memory operand of an INVLPG (`0F 01 /7`); `next` is the address of the next instruction, from
/// which RIP-relative operands count. Segment bases are taken as 0. SDM 2A 2.1.5, 2.2.1.
#[must_use]
pub fn invlpg_operand(insn: &[u8], next: u64) -> Option<Operand> {
    let at = insn.windows(2).position(|w| w == [0x0F, 0x01])?;
    let rex = insn[..at].iter().copied().find(|b| b & 0xF0 == 0x40).unwrap_or(0);
    let (&modrm, rest) = insn.get(at + 2..)?.split_first()?;
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let high = |bit: u8| if rex & bit != 0 { 8 } else { 0 };
    let mut out = Operand::default();
    let (mut rest, mut no_base) = (rest, rm == 5 && mode == 0);
    if mode == 3 {
        return None;
    } else if rm == 4 {
        let (&sib, tail) = rest.split_first()?;
        rest = tail;
        let index = (sib >> 3 & 7) + high(2);
        out.index = (index != 4).then_some((index, 1 << (sib >> 6)));
        no_base = sib & 7 == 5 && mode == 0;
        out.base = (!no_base).then_some((sib & 7) + high(1));
    } else if no_base {
        out.displacement = next;
    } else {
        out.base = Some(rm + high(1));
    }
    let displacement = match mode {
        1 => i64::from(i8::from_le_bytes([*rest.first()?])),
        0 if !no_base => 0,
        _ => i64::from(i32::from_le_bytes(rest.get(..4)?.try_into().ok()?)),
    };
    out.displacement = out.displacement.wrapping_add_signed(displacement);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_of_invlpg() {
        let op = |bytes: &[u8]| {
            let o = invlpg_operand(bytes, 0x1000).expect("a memory operand");
            (o.base, o.index, o.displacement)
        };
        assert_eq!(op(&[0x0F, 0x01, 0x38]), (Some(0), None, 0), "[rax]");
        assert_eq!(op(&[0x41, 0x0F, 0x01, 0x3B]), (Some(11), None, 0), "[r11]");
        assert_eq!(op(&[0x0F, 0x01, 0x7F, 0xF8]), (Some(7), None, 8u64.wrapping_neg()));
        assert_eq!(op(&[0x0F, 0x01, 0x3C, 0x24]), (Some(4), None, 0), "[rsp]");
        assert_eq!(op(&[0x42, 0x0F, 0x01, 0x7C, 0xA8, 0x10]), (Some(0), Some((13, 4)), 16));
        assert_eq!(op(&[0x0F, 0x01, 0x3D, 0x10, 0, 0, 0]), (None, None, 0x1010), "[rip + 16]");
        assert_eq!(op(&[0x0F, 0x01, 0x3C, 0x25, 0, 0x10, 0, 0]), (None, None, 0x1000));
        assert_eq!(op(&[0x0F, 0x01, 0xBB, 0, 0, 1, 0]), (Some(3), None, 0x10000));
        assert_eq!(invlpg_operand(&[0x0F, 0x01, 0xF8], 0), None, "swapgs");
        assert_eq!(invlpg_operand(&[0x0F, 0x01, 0x7F], 0), None, "cut off");
    }

    fn count(insn: &[u8]) -> Option<Count> {
        traits(insn).count
    }

    #[test]
    fn instructions_of_interest_are_found() {
        assert_eq!(count(&[0x0F, 0x05]), Some(Count::Syscall));
        assert_eq!(count(&[0x48, 0x0F, 0x07]), Some(Count::Sysret));
        assert_eq!(count(&[0x0F, 0x22, 0xD8]), Some(Count::Cr3Write));
        assert_eq!(count(&[0x41, 0x0F, 0x22, 0xDA]), Some(Count::Cr3Write), "mov cr3, r10");
        assert_eq!(count(&[0x0F, 0x22, 0xE0]), Some(Count::ModeWrite));
        assert_eq!(count(&[0x44, 0x0F, 0x22, 0xC0]), None, "mov cr8 changes no translation");
        assert_eq!(count(&[0x0F, 0x30]), Some(Count::Wrmsr));
        assert_eq!(count(&[0x0F, 0x01, 0x38]), Some(Count::Invlpg));
        assert_eq!(count(&[0x66, 0x0F, 0x38, 0x82, 0x00]), Some(Count::Invpcid));
        assert_eq!(count(&[0x0F, 0x01, 0xF8]), Some(Count::Swapgs));
        assert_eq!(count(&[0x0F, 0x01, 0xF9]), None, "rdtscp");
        assert_eq!(count(&[0x48, 0xCF]), Some(Count::Iret));
        assert_eq!(count(&[0xCC]), Some(Count::SoftInt));
        assert_eq!(count(&[0xF4]), Some(Count::Hlt));
        assert_eq!(count(&[0xF3, 0x90]), Some(Count::Pause));
        assert_eq!(count(&[0x90]), None);
        assert_eq!(count(&[0xEE]), Some(Count::PortIo));
        assert_eq!(count(&[0x48, 0x0F, 0xAE, 0x27]), Some(Count::FpuState), "xsave64");
        assert_eq!(count(&[0x0F, 0xAE, 0xF0]), None, "mfence");
    }

    #[test]
    fn locks_repeats_and_tables() {
        assert!(traits(&[0xF0, 0x48, 0x0F, 0xB1, 0x0A]).locked);
        assert!(traits(&[0x48, 0x87, 0x07]).locked, "xchg with memory");
        assert!(!traits(&[0x48, 0x87, 0xC3]).locked, "xchg of registers");
        assert!(traits(&[0xF3, 0x48, 0xA5]).repeated);
        assert!(!traits(&[0x48, 0xA5]).repeated);
        assert!(traits(&[0x0F, 0x01, 0x18]).lidt);
        assert!(traits(&[0x48, 0x89, 0xD8]).is_plain());
        assert!(traits(&[]).is_plain());
        assert!(traits(&[0x0F]).is_plain());
    }
}
