//! Kernel-generated protocols and the sigma0 protocol (ref 6).
//!
//! A protocol's small negative number -n sits in label bits 47..4; the low four bits carry flags.

use crate::fpage::{Fpage, Rights};
use crate::id::NodeId;
use crate::tag::{LABEL_MASK, MsgTag};

abi_enum! {
    /// Protocols by their number n (ref 6).
    pub enum Protocol: u16 {
        /// Message of an interrupt thread to its handler.
        Interrupt = 1 => "interrupt",
        /// Page fault to the pager.
        PageFault = 2 => "page fault",
        /// Preemption message to the scheduler.
        Preemption = 3 => "preemption",
        /// Exception to the exception handler.
        Exception = 5 => "exception",
        /// Request to sigma0.
        Sigma0 = 6 => "sigma0",
        /// I/O fault to the pager.
        IoFault = 8 => "I/O fault",
        /// Control requests to sigma0.
        Sigma0Ext = 1001 => "sigma0 extension",
        /// Lokal: request to sigma0 that names a node.
        Sigma0Node = 1002 => "sigma0 node request",
    }
}

impl Protocol {
    /// The 48-bit label with these flags (four bits).
    #[must_use]
    pub const fn label(self, flags: u8) -> u64 {
        ((0u64.wrapping_sub(self.raw() as u64) << 4) | (flags & 0xF) as u64) & LABEL_MASK
    }

    /// A tag of this protocol.
    #[must_use]
    pub const fn tag(self, flags: u8, untyped: usize) -> MsgTag {
        MsgTag::new(self.label(flags), untyped, 0)
    }

    /// The protocol and flags of a received tag, if the label is one of these.
    #[must_use]
    pub const fn of(tag: MsgTag) -> Option<(Self, u8)> {
        let label = tag.label();
        let n = 0u64.wrapping_sub(label >> 4) & (LABEL_MASK >> 4);
        if n > u16::MAX as u64 {
            return None;
        }
        match Self::from_raw(n as u16) {
            Some(p) => Some((p, (label & 0xF) as u8)),
            None => None,
        }
    }
}

/// Tag of the message that announces an interrupt (ref 6.4).
pub const INTERRUPT_TAG: MsgTag = Protocol::Interrupt.tag(0, 0);

/// Tag of a preemption message: MR1 clock, MR2 0 (ref 6.5).
pub const PREEMPTION_TAG: MsgTag = Protocol::Preemption.tag(0, 2);

/// Tag of an exception message (ref 6.3).
pub const EXCEPTION_TAG: MsgTag = Protocol::Exception.tag(0, EXCEPTION_WORDS);

/// Words of an exception message.
pub const EXCEPTION_WORDS: usize = 20;

/// Message register of each part of an exception message (ref 6.3).
#[expect(missing_docs, reason = "the names are the registers")]
pub mod exception_mr {
    pub const RIP: usize = 1;
    pub const RBX: usize = 2;
    pub const R10: usize = 3;
    pub const R12: usize = 4;
    pub const R13: usize = 5;
    pub const R14: usize = 6;
    pub const R15: usize = 7;
    pub const RAX: usize = 8;
    pub const RCX: usize = 9;
    pub const RDX: usize = 10;
    pub const RSI: usize = 11;
    pub const RDI: usize = 12;
    pub const RBP: usize = 13;
    pub const R8: usize = 14;
    pub const R9: usize = 15;
    pub const R11: usize = 16;
    pub const RSP: usize = 17;
    pub const RFLAGS: usize = 18;
    pub const VECTOR: usize = 19;
    pub const ERROR_CODE: usize = 20;
}

/// Words of an exception reply that are restored: MR1 to MR18.
pub const EXCEPTION_REPLY_WORDS: usize = 18;

/// A page fault message (ref 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// What was tried.
    pub access: Rights,
    /// Exact faulting address.
    pub addr: u64,
    /// Instruction pointer; `u64::MAX` for a fault of a string receiver (ref 5.6).
    pub ip: u64,
}

impl PageFault {
    /// The tag.
    #[must_use]
    pub const fn tag(self) -> MsgTag {
        Protocol::PageFault.tag(self.access.bits(), 2)
    }

    /// Parses a received message: tag, MR1, MR2.
    #[must_use]
    pub const fn parse(tag: MsgTag, mr1: u64, mr2: u64) -> Option<Self> {
        match Protocol::of(tag) {
            Some((Protocol::PageFault, flags)) if tag.untyped() == 2 && tag.typed() == 0 => {
                Some(Self { access: Rights::from_bits_truncate(flags), addr: mr1, ip: mr2 })
            }
            _ => None,
        }
    }
}

/// An I/O fault message (ref 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoFault {
    /// The ports touched.
    pub ports: Fpage,
    /// Instruction pointer.
    pub ip: u64,
}

impl IoFault {
    /// The tag.
    #[must_use]
    pub const fn tag(self) -> MsgTag {
        Protocol::IoFault.tag(Rights::RW.bits(), 2)
    }

    /// Parses a received message: tag, MR1, MR2.
    #[must_use]
    pub const fn parse(tag: MsgTag, mr1: u64, mr2: u64) -> Option<Self> {
        match Protocol::of(tag) {
            Some((Protocol::IoFault, _)) if tag.untyped() == 2 && tag.typed() == 0 => {
                Some(Self { ports: Fpage::from_raw(mr1), ip: mr2 })
            }
            _ => None,
        }
    }
}

/// Commands of the sigma0 extension protocol, MR1 (ref 6.6).
pub mod sigma0_ext {
    /// Set the verbosity to MR2; no reply.
    pub const VERBOSE: u64 = 1;
    /// Dump the pools; empty reply if MR2 is not 0.
    pub const DUMP: u64 = 2;
}

/// A request to sigma0 (ref 6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sigma0Request {
    /// Memory, specific or any ([`Fpage::is_any`]), or I/O ports.
    Pages {
        /// What is asked for.
        fpage: Fpage,
        /// Memory attributes for MemoryControl, 0 = default.
        attributes: u64,
    },
    /// Lokal: any page of the fpage's size from one node's memory; never from another node.
    PagesOnNode {
        /// Size asked for (an "any" fpage), or a specific page that must lie on the node.
        fpage: Fpage,
        /// Memory attributes, 0 = default.
        attributes: u64,
        /// The node.
        node: NodeId,
    },
    /// A page fault.
    Fault(PageFault),
    /// An I/O fault.
    IoFault(IoFault),
    /// Set the verbosity.
    Verbose(u64),
    /// Dump the pools; reply if `reply`.
    Dump {
        /// Whether an empty reply is wanted.
        reply: bool,
    },
}

/// Why sigma0 does not answer a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Sigma0Request {
    /// The request as a message: tag and MR1 to MR3.
    #[must_use]
    pub const fn encode(self) -> (MsgTag, [u64; 3]) {
        match self {
            Self::Pages { fpage, attributes } => {
                // The extended form (ref 6.6): a set bit 3 announces a third word.
                let words = if fpage.raw() & 8 != 0 { 3 } else { 2 };
                (Protocol::Sigma0.tag(0, words), [fpage.raw(), attributes, 0])
            }
            Self::PagesOnNode { fpage, attributes, node } => {
                (Protocol::Sigma0Node.tag(0, 3), [fpage.raw(), attributes, node.0 as u64])
            }
            Self::Fault(f) => (f.tag(), [f.addr, f.ip, 0]),
            Self::IoFault(f) => (f.tag(), [f.ports.raw(), f.ip, 0]),
            Self::Verbose(level) => {
                (Protocol::Sigma0Ext.tag(0, 2), [sigma0_ext::VERBOSE, level, 0])
            }
            Self::Dump { reply } => {
                (Protocol::Sigma0Ext.tag(0, 2), [sigma0_ext::DUMP, reply as u64, 0])
            }
        }
    }

    /// Parses a received message.
    ///
    /// # Errors
    /// [`Malformed`] for everything that gets no reply: unknown labels, typed items, wrong counts.
    pub const fn parse(tag: MsgTag, mr: [u64; 3]) -> Result<Self, Malformed> {
        if tag.typed() != 0 || (tag.untyped() != 2 && tag.untyped() != 3) {
            return Err(Malformed);
        }
        let Some((protocol, flags)) = Protocol::of(tag) else { return Err(Malformed) };
        let [mr1, mr2, mr3] = mr;
        match protocol {
            Protocol::Sigma0 => Ok(Self::Pages { fpage: Fpage::from_raw(mr1), attributes: mr2 }),
            Protocol::Sigma0Node if tag.untyped() == 3 && mr3 <= u8::MAX as u64 => {
                let node = NodeId(mr3 as u8);
                Ok(Self::PagesOnNode { fpage: Fpage::from_raw(mr1), attributes: mr2, node })
            }
            Protocol::PageFault => {
                let access = Rights::from_bits_truncate(flags);
                Ok(Self::Fault(PageFault { access, addr: mr1, ip: mr2 }))
            }
            Protocol::IoFault => {
                Ok(Self::IoFault(IoFault { ports: Fpage::from_raw(mr1), ip: mr2 }))
            }
            Protocol::Sigma0Ext if mr1 == sigma0_ext::VERBOSE => Ok(Self::Verbose(mr2)),
            Protocol::Sigma0Ext if mr1 == sigma0_ext::DUMP => Ok(Self::Dump { reply: mr2 != 0 }),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_tags_of_the_reference() {
        assert_eq!(INTERRUPT_TAG.raw(), 0xFFFF_FFFF_FFF0_0000);
        assert_eq!(PREEMPTION_TAG.raw(), 0xFFFF_FFFF_FFD0_0002);
        assert_eq!(EXCEPTION_TAG.raw(), 0xFFFF_FFFF_FFB0_0014);
        let pf = PageFault { access: Rights::RW, addr: 1, ip: 2 };
        assert_eq!(pf.tag().raw(), 0xFFFF_FFFF_FFE0_0002 + (6 << 16));
        let io = IoFault { ports: Fpage::io(0x60, 0), ip: 3 };
        assert_eq!(io.tag().raw(), 0xFFFF_FFFF_FF86_0002);
        let any = Sigma0Request::Pages { fpage: Fpage::any_of_size(12), attributes: 0 };
        assert_eq!(any.encode().0.raw(), 0xFFFF_FFFF_FFA0_0003);
    }

    #[test]
    fn faults_round_trip() {
        let pf = PageFault { access: Rights::X, addr: 0x1234, ip: u64::MAX };
        assert_eq!(PageFault::parse(pf.tag(), pf.addr, pf.ip), Some(pf));
        assert_eq!(PageFault::parse(INTERRUPT_TAG, 0, 0), None);
        let io = IoFault { ports: Fpage::io(0x3F8, 3), ip: 9 };
        assert_eq!(IoFault::parse(io.tag(), io.ports.raw(), io.ip), Some(io));
    }

    #[test]
    fn sigma0_requests_round_trip() {
        let page = Fpage::memory(0x20_0000, 21, Rights::empty());
        for r in [
            Sigma0Request::Pages { fpage: page, attributes: 4 },
            Sigma0Request::Pages { fpage: Fpage::any_of_size(20), attributes: 0 },
            Sigma0Request::Pages { fpage: Fpage::io(0xF4, 0), attributes: 0 },
            Sigma0Request::PagesOnNode { fpage: page, attributes: 0, node: NodeId(3) },
            Sigma0Request::Fault(PageFault { access: Rights::R, addr: 5, ip: 6 }),
            Sigma0Request::IoFault(IoFault { ports: Fpage::io(1, 1), ip: 6 }),
            Sigma0Request::Verbose(2),
            Sigma0Request::Dump { reply: true },
            Sigma0Request::Dump { reply: false },
        ] {
            let (tag, mr) = r.encode();
            assert_eq!(Sigma0Request::parse(tag, mr), Ok(r));
        }
    }

    #[test]
    fn malformed_requests() {
        for tag in [
            MsgTag::NIL,
            Protocol::Sigma0.tag(0, 1),
            Protocol::Sigma0.tag(0, 4),
            MsgTag::new(Protocol::Sigma0.label(0), 2, 2),
            Protocol::Sigma0Node.tag(0, 2),
            Protocol::Sigma0Ext.tag(0, 2),
            MsgTag::new(77, 2, 0),
        ] {
            assert_eq!(Sigma0Request::parse(tag, [9, 0, 0]), Err(Malformed));
        }
    }
}
