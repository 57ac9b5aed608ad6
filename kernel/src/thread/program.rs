//! Where a thread is in its program, for whoever names it: address and code bytes there. Programs are linked at the
//! same addresses, but their code differs, so both together say which program it is (`xtask` compares with the ELFs).

use core::fmt;

use kcore::layout::{PAGE_SIZE, STUB_PAGE};

use crate::space::Space;
use crate::thread::tcb::{TcbRef, reg};

/// Code bytes that are told.
const CODE: usize = 12;

/// Where a thread is.
#[derive(Clone, Copy)]
pub struct Whereabouts {
    /// Its instruction pointer; of a thread in a system call the place that it returns to from the stub.
    pub ip: u64,
    bytes: [u8; CODE],
    length: usize,
}

impl Whereabouts {
    /// The code bytes there, in hexadecimal; empty if the page is not there.
    pub fn code(&self) -> impl fmt::Display + '_ {
        Hex(&self.bytes[..self.length])
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Reads user memory of a space; answers how many bytes there are.
type Read = fn(&Space, u64, &mut [u8]) -> usize;

/// Where `t` is. Its page need not be there; nothing faults.
pub fn whereabouts(t: TcbRef, read: Read) -> Whereabouts {
    let mut at = Whereabouts { ip: t.user_ip(), bytes: [0; CODE], length: 0 };
    let Some(space) = t.space.get() else { return at };
    let stubs = STUB_PAGE.as_u64();
    if (stubs..stubs + PAGE_SIZE).contains(&at.ip) {
        let mut word = [0; 8];
        if read(space, t.reg(reg::RSP), &mut word) == word.len() {
            at.ip = u64::from_le_bytes(word);
        }
    }
    at.length = read(space, at.ip, &mut at.bytes);
    at
}
