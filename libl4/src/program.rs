//! Programs that the root task starts from the boot manifest: the start page, arguments, leaving.
//!
//! The root task puts a *start page* below the image: words for the library, words for the program
//! and the arguments. A program says `libl4::program!(main)` instead of `entry!`; when `main`
//! returns, or panics, or the program raises an exception, the root task hears of it.

use crate::arch;
use crate::exit::Outcome;
use crate::rpc::{Mapping, RpcError};
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use l4abi::{CpuId, ThreadId};

/// Where the start page is.
pub const START_PAGE: u64 = 0x3F_F000;
/// Size of the start page.
pub const PAGE: usize = 4096;
/// First word of a start page.
pub const MAGIC: u64 = 0x3167_506c_616b_6f4c;
/// Number of words for the program's own use.
pub const PARAMS: usize = 48;

const WORD_SUPERVISOR: usize = 1;
const WORD_HEAP: usize = 2;
const WORD_ARGS: usize = 4;
const WORD_PARAMS: usize = 8;
const ARGS_AT: usize = 512;
/// Most bytes of arguments, each with a NUL behind it.
pub const ARGS_SIZE: usize = PAGE - ARGS_AT;

crate::rpc! {
    /// What a program may ask of the root task.
    pub trait Supervisor, client SupervisorClient, interface 0x60 {
        /// The program is done; 0 means well.
        fn exit(code: u64);
        /// The program panicked (and has said why on the console).
        fn panicked();
        /// Number `index` of the mappings that the caller gets at start; fails after the last.
        fn mapping(index: u64) -> Mapping;
        /// The caller is set up: it will never fault again.
        fn ready();
        /// Makes a thread of a program without application pager, starting at `ip` with `sp`.
        fn create_thread(ip: u64, sp: u64, cpu: CpuId) -> ThreadId;
        /// Deletes a thread of the caller's program that [`create_thread`](Self::create_thread) made.
        fn delete_thread(thread: ThreadId);
    }
}

/// Content of a start page.
#[derive(Clone, Copy, Debug)]
pub struct StartPage<'a> {
    /// The thread that serves [`Supervisor`].
    pub supervisor: ThreadId,
    /// Base and size of the memory for the heap; size 0 = none.
    pub heap: (u64, u64),
    /// Words for the program.
    pub params: &'a [u64],
    /// The program's name, then its arguments.
    pub args: &'a [&'a str],
}

impl StartPage<'_> {
    /// The page's bytes; `None` if arguments or parameters do not fit.
    #[must_use]
    pub fn bytes(&self) -> Option<[u8; PAGE]> {
        let mut page = [0; PAGE];
        let len: usize = self.args.iter().map(|arg| arg.len() + 1).sum();
        if len > ARGS_SIZE || self.params.len() > PARAMS {
            return None;
        }
        let mut put = |index: usize, word: u64| {
            page[8 * index..8 * index + 8].copy_from_slice(&word.to_le_bytes());
        };
        put(0, MAGIC);
        put(WORD_SUPERVISOR, self.supervisor.raw());
        put(WORD_HEAP, self.heap.0);
        put(WORD_HEAP + 1, self.heap.1);
        put(WORD_ARGS, len as u64);
        for (i, &word) in self.params.iter().enumerate() {
            put(WORD_PARAMS + i, word);
        }
        let mut at = ARGS_AT;
        for arg in self.args {
            page[at..at + arg.len()].copy_from_slice(arg.as_bytes());
            at += arg.len() + 1;
        }
        Some(page)
    }
}

fn word(index: usize) -> u64 {
    arch::peek(START_PAGE + 8 * index as u64)
}

static SUPERVISOR: AtomicU64 = AtomicU64::new(0);

/// The root task's thread, or nil in a program that was not started by one.
#[must_use]
pub fn supervisor() -> ThreadId {
    ThreadId::from_raw(SUPERVISOR.load(Ordering::Relaxed))
}

/// Reads the start page. Called by [`crate::program!`].
pub fn start() {
    if word(0) != MAGIC {
        return;
    }
    SUPERVISOR.store(word(WORD_SUPERVISOR), Ordering::Relaxed);
    report_exceptions();
    #[cfg(target_os = "none")]
    if word(WORD_HEAP + 1) != 0 {
        crate::heap::give(word(WORD_HEAP), word(WORD_HEAP + 1) as usize);
    }
}

/// Makes the root task hear of exceptions of the running thread. The first thread has called this;
/// others may.
pub fn report_exceptions() {
    arch::utcb().exception_handler.store(supervisor().raw(), Ordering::Relaxed);
}

/// Starts a thread of a program that has no application pager on a CPU, in `entry(arg)` on `stack`.
/// Tasks ask their pager instead (`app_pager::client`).
///
/// # Errors
/// `Failed` if the program is a task or has no thread left to make, or there is no such CPU.
pub fn create_thread(
    stack: &arch::StackTop,
    entry: extern "C" fn(u64) -> !,
    arg: u64,
    cpu: CpuId,
) -> Result<ThreadId, RpcError> {
    let (ip, sp) = (arch::trampoline_ip(), stack.prepare(entry, arg));
    SupervisorClient::new(supervisor()).create_thread(ip, sp, cpu)
}

/// Deletes a thread that [`create_thread`] made.
///
/// # Errors
/// `Failed` if it is none.
pub fn delete_thread(thread: ThreadId) -> Result<(), RpcError> {
    SupervisorClient::new(supervisor()).delete_thread(thread)
}

/// Word `index` for the program; 0 outside.
#[must_use]
pub fn param(index: usize) -> u64 {
    if index < PARAMS { word(WORD_PARAMS + index) } else { 0 }
}

/// The program's name and arguments.
#[must_use]
pub fn args() -> Vec<String> {
    let len = (word(WORD_ARGS) as usize).min(ARGS_SIZE);
    let bytes = arch::module_bytes(START_PAGE + ARGS_AT as u64, len as u64);
    let text = core::str::from_utf8(bytes).unwrap_or("");
    text.split_terminator('\0').map(String::from).collect()
}

/// Ends the program.
pub fn exit(outcome: Outcome) -> ! {
    let code = u64::from(outcome != Outcome::Success);
    // The root task deletes the thread instead of answering.
    let _ = SupervisorClient::new(supervisor()).exit(code);
    crate::thread::sleep_forever()
}

/// Names the main function of a program that the root task starts, `fn()`.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        $crate::entry!(lokal_program);

        fn lokal_program() {
            $crate::program::start();
            $main();
            $crate::program::exit($crate::exit::Outcome::Success)
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_pages() {
        let args = ["name", "-x", ""];
        let page = StartPage {
            supervisor: ThreadId::irq(5),
            heap: (0x1000, 0x2000),
            params: &[7, 8],
            args: &args,
        };
        let bytes = page.bytes().expect("it fits");
        let word = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap());
        assert_eq!((word(0), word(2), word(3), word(4)), (MAGIC, 0x1000, 0x2000, 9));
        assert_eq!((word(8), word(9), word(10)), (7, 8, 0));
        assert_eq!(&bytes[ARGS_AT..ARGS_AT + 9], b"name\0-x\0\0");
        let long = "x".repeat(ARGS_SIZE);
        assert!(StartPage { args: &[&long], ..page }.bytes().is_none());
        assert!(StartPage { params: &[0; PARAMS + 1], ..page }.bytes().is_none());
    }
}
