//! Threads: finding them, making them, changing them.

pub mod alloc;
pub mod control;
pub mod exregs;
pub mod fpu;
#[cfg(feature = "trace")]
pub mod program;
pub mod schedule;
pub mod table;
pub mod tcb;
pub mod utcb;

use kcore::cross::shows_past;
use kcore::types::{ThreadNo, VirtAddr};
use l4abi::id::ThreadId;

use crate::arch::x86_64::cpulocal;

use crate::thread::tcb::TcbRef;
pub use table::slot;

/// The thread with global id `id`, if there is one.
#[inline(always)]
pub fn lookup(id: u64) -> Option<TcbRef> {
    let t = slot(ThreadId::from_raw(id).number().0);
    if t.id.get() == id && id != 0 {
        return Some(t);
    }
    lookup_again(t, id)
}

/// The same if this CPU's translation of the slot is right at once; none says nothing.
#[inline(always)]
pub fn lookup_at_once(id: u64) -> Option<TcbRef> {
    let t = slot(ThreadId::from_raw(id).number().0);
    (t.id.get() == id).then_some(t)
}

/// The thread with number `number`, if there is one.
pub fn present(number: ThreadNo) -> Option<TcbRef> {
    let t = at_present(slot(number.get()));
    (!shows_past(t.id.get(), number.get())).then_some(t)
}

/// `t`, which somebody on whatever CPU has looked up before: what its slot shows now, be it nobody.
pub fn at_present(t: TcbRef) -> TcbRef {
    if shows_past(t.id.get(), t.number().get()) {
        cpulocal::forget_page(VirtAddr::new(core::ptr::from_ref(t) as u64));
    }
    t
}

/// This CPU may still have the translation of a slot's past (see `tcb_area`): look again without it.
#[cold]
#[inline(never)]
fn lookup_again(t: TcbRef, id: u64) -> Option<TcbRef> {
    cpulocal::forget_page(VirtAddr::new(core::ptr::from_ref(t) as u64));
    (t.id.get() == id && id != 0).then_some(t)
}

/// The thread that `me` names by a global or local id.
#[inline(always)]
pub fn resolve(me: TcbRef, id: u64) -> Option<TcbRef> {
    if ThreadId::from_raw(id).is_local() { resolve_local(me, id) } else { lookup(id) }
}

/// The thread of the own space whose UTCB `local` names. The UTCB is the user's to write: what it says is a
/// hint that the TCB confirms.
#[inline(never)]
fn resolve_local(me: TcbRef, local: u64) -> Option<TcbRef> {
    let space = me.space.get()?;
    let hint = utcb::global_id_hint(space, local)?;
    lookup(hint).filter(|t| t.local_id.get() == local && t.space.get() == me.space.get())
}

/// Who gets what `me`, a thread of a space with a redirector, sends to `dest` (reference 5.5): messages inside the
/// space and to the redirector's own space go straight, all others to the redirector. None if that is gone:
/// nothing leaves the space then.
#[cold]
pub fn redirect(me: TcbRef, dest: TcbRef) -> Option<TcbRef> {
    me.redirected.set(0);
    let id = me.space.get().map_or(0, |s| s.redirector());
    if id == 0 || dest.space.get() == me.space.get() {
        return Some(dest);
    }
    let redirector = lookup(id)?;
    if dest.space.get() == redirector.space.get() {
        return Some(dest);
    }
    me.redirected.set(dest.id.get());
    Some(redirector)
}

/// Whether `t` may use the privileged calls: its space is that of sigma0, sigma1 or the root task.
pub fn is_privileged(t: TcbRef) -> bool {
    t.space.get().is_some_and(|s| s.is_privileged())
}
