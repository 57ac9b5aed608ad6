//! The little of x86 machine code that the kernel must understand: port instructions that were refused
//! (SDM 2A, IN, OUT, INS, OUTS).

/// A port access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortAccess {
    /// First port.
    pub port: u16,
    /// log2 of the number of ports.
    pub size_log2: u8,
}

/// The port access at the start of `code`, if it is one; `dx` is the register that most forms take the port from.
pub fn port_access(code: &[u8], dx: u16) -> Option<PortAccess> {
    let mut dword = 2;
    let mut rest = code.iter();
    loop {
        let &byte = rest.next()?;
        let (port, size_log2) = match byte {
            // Operand size: 16 bits instead of 32.
            0x66 => {
                dword = 1;
                continue;
            }
            // Segment, address size, repeat and REX prefixes change nothing here.
            0x26 | 0x2E | 0x36 | 0x3E | 0x64 | 0x65 | 0x67 | 0xF2 | 0xF3 | 0x40..=0x4F => continue,
            0xE4 | 0xE6 => (u16::from(*rest.next()?), 0),
            0xE5 | 0xE7 => (u16::from(*rest.next()?), dword),
            0xEC | 0xEE | 0x6C | 0x6E => (dx, 0),
            0xED | 0xEF | 0x6D | 0x6F => (dx, dword),
            _ => return None,
        };
        return Some(PortAccess { port, size_log2 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(port: u16, size_log2: u8) -> Option<PortAccess> {
        Some(PortAccess { port, size_log2 })
    }

    #[test]
    fn all_forms() {
        assert_eq!(port_access(&[0xEC], 0x3FD), access(0x3FD, 0), "in al, dx");
        assert_eq!(port_access(&[0xEE], 0x3F8), access(0x3F8, 0), "out dx, al");
        assert_eq!(port_access(&[0xED], 0xCF8), access(0xCF8, 2), "in eax, dx");
        assert_eq!(port_access(&[0x66, 0xEF], 0xCF8), access(0xCF8, 1), "out dx, ax");
        assert_eq!(port_access(&[0xE6, 0xF4], 0), access(0xF4, 0), "out imm8, al");
        assert_eq!(port_access(&[0x66, 0xE5, 0x60], 0), access(0x60, 1), "in ax, imm8");
        assert_eq!(port_access(&[0xF3, 0x6D], 0x1F0), access(0x1F0, 2), "rep insd");
    }

    #[test]
    fn other_code_and_cut_code() {
        assert_eq!(port_access(&[0x0F, 0x30], 1), None, "wrmsr");
        assert_eq!(port_access(&[0xFA], 1), None, "cli");
        assert_eq!(port_access(&[0x66], 1), None);
        assert_eq!(port_access(&[0xE4], 1), None);
        assert_eq!(port_access(&[], 1), None);
    }
}
