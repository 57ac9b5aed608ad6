//! Telling CPUs to forget translations: once per operation.

use kcore::mapdb::FlushSet;

use crate::arch::x86_64::cpulocal;
use crate::sched::this_cpu;
use crate::space::env::Kernel;

/// Does what `set` asks for and empties it. No lock is held.
pub fn flush(set: &mut FlushSet) {
    if set.is_empty() {
        return;
    }
    let cpu = this_cpu();
    cpulocal::load_root(cpu.root.get());
    set.take_retired(&Kernel);
}
