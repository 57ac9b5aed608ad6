//! Stacks of threads: the only memory that the library hands to code it did not call.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// A stack in static memory, used by one thread at a time.
#[repr(C, align(16))]
#[derive(Debug)]
pub struct Stack<const N: usize> {
    memory: UnsafeCell<[u8; N]>,
    taken: AtomicBool,
}

// SAFETY: the memory is reached only through the one `StackTop` that `take` gives out, or by the
// start-up code before anything else runs.
unsafe impl<const N: usize> Sync for Stack<N> {}

impl<const N: usize> Default for Stack<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Stack<N> {
    /// An unused stack.
    #[must_use]
    pub const fn new() -> Self {
        Self { memory: UnsafeCell::new([0; N]), taken: AtomicBool::new(false) }
    }

    /// Takes the stack for a thread; `None` if another one has it.
    pub fn take(&'static self) -> Option<StackTop> {
        if self.taken.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(StackTop { top: self.memory.get() as usize + N, size: N })
    }

    /// Makes the stack free again. Its thread must have been deleted: a running one would share its
    /// memory with the next.
    pub fn release(&self) {
        self.taken.store(false, Ordering::Release);
    }
}

/// The upper end of a stack that is being given to a new thread.
#[derive(Debug)]
pub struct StackTop {
    top: usize,
    size: usize,
}

impl StackTop {
    /// Writes `entry` and `arg` where the trampoline looks for them. Returns the SP to start with.
    #[must_use]
    pub fn prepare(&self, entry: extern "C" fn(u64) -> !, arg: u64) -> u64 {
        let sp = (self.top & !15) - 16;
        debug_assert!(self.size >= 64);
        // SAFETY: the 16 bytes lie inside the stack's memory, which this value owns and which no
        // thread runs on yet.
        unsafe {
            let words = sp as *mut u64;
            words.write(entry as *const () as u64);
            words.add(1).write(arg);
        }
        sp as u64
    }
}
