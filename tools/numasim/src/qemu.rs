//! The emulator's plugin API, version 1, and a few functions its binary exports besides.
//!
//! *Plugin API* (`qemu-plugin.h` of QEMU 7.2): stable; version 1 is checked by the emulator itself.
//! *Other symbols*: found with `dlsym`, and their absence is reported. They have no stable signature,
//! so `cargo xtask sim` refuses emulator versions that were not tried, and the model checks what they
//! deliver (page walks from CR3 against the emulator's own translation, HELLO, PLACE).
//!
//! All `unsafe` of the plugin is in this file.

use crate::{events, fatal, translate};
use std::{
    cell::Cell,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    mem::transmute,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// The version of the API this plugin is written for; the emulator looks at it before anything else.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

#[repr(C)]
struct Info {
    target_name: *const c_char,
    version_min: c_int,
    version_cur: c_int,
    system_emulation: bool,
    smp_vcpus: c_int,
    max_vcpus: c_int,
}

type ExecCallback = extern "C" fn(c_uint, *mut c_void);
type MemCallback = extern "C" fn(c_uint, u32, u64, *mut c_void);
type TransCallback = extern "C" fn(u64, *mut c_void);

const NO_REGISTERS: c_int = 0;
const READS_AND_WRITES: c_int = 3;
const INLINE_ADD: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, cb: TransCallback);
    fn qemu_plugin_tb_n_insns(tb: *const c_void) -> usize;
    fn qemu_plugin_tb_get_insn(tb: *const c_void, index: usize) -> *mut c_void;
    fn qemu_plugin_insn_data(insn: *const c_void) -> *const c_void;
    fn qemu_plugin_insn_size(insn: *const c_void) -> usize;
    fn qemu_plugin_insn_vaddr(insn: *const c_void) -> u64;
    fn qemu_plugin_insn_haddr(insn: *const c_void) -> *mut c_void;
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut c_void,
        cb: ExecCallback,
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_insn_exec_inline(
        insn: *mut c_void,
        op: c_int,
        ptr: *mut c_void,
        imm: u64,
    );
    fn qemu_plugin_register_vcpu_mem_cb(
        insn: *mut c_void,
        cb: MemCallback,
        flags: c_int,
        rw: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_mem_size_shift(info: u32) -> c_uint;
    fn qemu_plugin_mem_is_store(info: u32) -> bool;
    fn qemu_plugin_get_hwaddr(info: u32, vaddr: u64) -> *const c_void;
    fn qemu_plugin_hwaddr_is_io(haddr: *const c_void) -> bool;
    fn qemu_plugin_hwaddr_phys_addr(haddr: *const c_void) -> u64;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// GLib's byte array, as far as it is public.
#[repr(C)]
struct ByteArray {
    data: *mut u8,
    len: c_uint,
}

type GetCpu = unsafe extern "C" fn(c_int) -> *mut c_void;
type CpuExit = unsafe extern "C" fn(*mut c_void);
type ReadRegister = unsafe extern "C" fn(*mut c_void, *mut ByteArray, c_int) -> c_int;
type LoadPhysical = unsafe extern "C" fn(*mut c_void, u64) -> u32;
type ArrayNew = unsafe extern "C" fn() -> *mut ByteArray;
type ArrayResize = unsafe extern "C" fn(*mut ByteArray, c_uint) -> *mut ByteArray;

/// The functions that are not plugin API.
struct Symbols {
    get_cpu: GetCpu,
    cpu_exit: CpuExit,
    read_register: ReadRegister,
    load_physical: LoadPhysical,
    array_new: ArrayNew,
    array_resize: ArrayResize,
}

fn symbol(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: a null handle searches the program and its libraries; the name is a C string.
    let found = unsafe { dlsym(ptr::null_mut(), name.as_ptr()) };
    if found.is_null() {
        let name = name.to_string_lossy();
        return Err(format!("this emulator does not export `{name}`: a build that is not known"));
    }
    Ok(found)
}

static SYMBOLS: OnceLock<Symbols> = OnceLock::new();

/// Looks for everything that is not plugin API.
pub fn check_symbols() -> Result<(), String> {
    symbol(c"current_cpu")?;
    let [get_cpu, cpu_exit, read_register, load_physical, array_new, array_resize] = [
        c"qemu_get_cpu",
        c"cpu_exit",
        c"x86_cpu_gdb_read_register",
        c"x86_ldl_phys",
        c"g_byte_array_new",
        c"g_byte_array_set_size",
    ]
    .map(symbol);
    // SAFETY: each is a function of the emulator (7.2: hw/core/cpu-common.c, softmmu/cpus.c,
    // target/i386/{gdbstub,helper}.c) or of GLib, whose C signatures the fields repeat.
    let symbols = unsafe {
        Symbols {
            get_cpu: transmute::<*mut c_void, GetCpu>(get_cpu?),
            cpu_exit: transmute::<*mut c_void, CpuExit>(cpu_exit?),
            read_register: transmute::<*mut c_void, ReadRegister>(read_register?),
            load_physical: transmute::<*mut c_void, LoadPhysical>(load_physical?),
            array_new: transmute::<*mut c_void, ArrayNew>(array_new?),
            array_resize: transmute::<*mut c_void, ArrayResize>(array_resize?),
        }
    };
    let _ = SYMBOLS.set(symbols);
    Ok(())
}

fn symbols() -> &'static Symbols {
    SYMBOLS.get().unwrap_or_else(|| fatal("used before it was installed"))
}

/// A CPU of the emulator, usable on the thread that executes CPUs.
#[derive(Clone, Copy)]
pub struct CpuHandle(*mut c_void);

/// Registers by the number the debugger interface of QEMU 7.2 gives them (target/i386/gdbstub.c).
#[derive(Clone, Copy)]
pub enum Register {
    /// A general register, in hardware numbering.
    General(u8),
    /// Code segment selector.
    Cs,
    /// Control registers and EFER.
    Cr0,
    /// See `Cr0`.
    Cr2,
    /// See `Cr0`.
    Cr3,
    /// See `Cr0`.
    Cr4,
    /// See `Cr0`.
    Efer,
}

impl Register {
    fn number(self) -> c_int {
        // The debugger's order is rax rbx rcx rdx rsi rdi rbp rsp r8..r15.
        const GENERAL: [c_int; 8] = [0, 2, 3, 1, 7, 6, 4, 5];
        match self {
            Register::General(n @ 0..=7) => GENERAL[usize::from(n)],
            Register::General(n) => c_int::from(n & 15),
            Register::Cs => 18,
            Register::Cr0 => 27,
            Register::Cr2 => 28,
            Register::Cr3 => 29,
            Register::Cr4 => 30,
            Register::Efer => 32,
        }
    }
}

thread_local! {
    /// Scratch for register reads; GLib owns it for ever.
    static SCRATCH: Cell<*mut ByteArray> = const { Cell::new(ptr::null_mut()) };
}

impl CpuHandle {
    /// The CPU with this index.
    pub fn by_index(index: usize) -> Option<CpuHandle> {
        // SAFETY: any index may be asked for; unknown ones give null.
        let cpu = unsafe { (symbols().get_cpu)(index as c_int) };
        (!cpu.is_null()).then_some(CpuHandle(cpu))
    }

    /// The CPU that this thread executes or translates for.
    pub fn current() -> Option<CpuHandle> {
        let at = symbol(c"current_cpu").unwrap_or_else(|e| fatal(&e)).cast::<*mut c_void>();
        // SAFETY: `current_cpu` is a thread-local pointer variable; dlsym gives this thread's instance.
        let cpu = unsafe { *at };
        (!cpu.is_null()).then_some(CpuHandle(cpu))
    }

    /// A register's value. General registers are right only between translation blocks; control and
    /// segment registers always.
    pub fn register(self, register: Register) -> u64 {
        let s = symbols();
        let mut array = SCRATCH.get();
        if array.is_null() {
            // SAFETY: no precondition.
            array = unsafe { (s.array_new)() };
            SCRATCH.set(array);
        }
        // SAFETY: `array` is a GLib byte array used by this thread only; `self` is a live CPU (CPUs are
        // never unplugged on this machine); the function appends the register's bytes to the array.
        unsafe {
            (s.array_resize)(array, 0);
            let len = (s.read_register)(self.0, array, register.number());
            let len = usize::try_from(len).unwrap_or(0).min((*array).len as usize).min(8);
            let mut bytes = [0; 8];
            ptr::copy_nonoverlapping((*array).data, bytes.as_mut_ptr(), len);
            u64::from_le_bytes(bytes)
        }
    }

    /// Makes the CPU leave its slice at the next block.
    pub fn leave_slice(self) {
        // SAFETY: `self` is a live CPU; cpu_exit only sets flags and may be called from any thread.
        unsafe { (symbols().cpu_exit)(self.0) }
    }

    /// Reads 32 bits at a guest-physical address as this CPU (for its local APIC, which is at the same
    /// address on every CPU: `self` has to be the current one).
    pub fn load_physical(self, gpa: u64) -> u32 {
        // SAFETY: `self` is a live CPU; the function takes the emulator's lock itself if need be, and
        // callbacks are made without it.
        unsafe { (symbols().load_physical)(self.0, gpa) }
    }
}

/// Instructions executed in kernel and user mode; translated code adds to them.
static COUNTS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Instructions executed so far in kernel and user mode, by all CPUs.
pub fn counts() -> [u64; 2] {
    [COUNTS[0].load(Ordering::Relaxed), COUNTS[1].load(Ordering::Relaxed)]
}

/// A data access that is being reported.
#[derive(Clone, Copy)]
pub struct Access {
    info: u32,
}

/// What kind of access it is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// Its size in bytes.
    pub size: u64,
    /// Whether it is a store.
    pub store: bool,
}

/// The shapes of the accesses seen last. The emulator's word for an access depends on its kind only.
#[derive(Default)]
pub struct Shapes([(u32, Shape); 8]);

impl Shapes {
    /// What kind of access this is.
    pub fn of(&mut self, access: Access) -> Shape {
        // QEMU 7.2 has loads and stores in bits 16 and 17, the size in bits 4 and 5; any hash would do.
        let info = access.info;
        let known = &mut self.0[(info >> 4 & 3 | info >> 15 & 4) as usize];
        if known.0 != info || known.1.size == 0 {
            *known = (info, access.shape());
        }
        known.1
    }
}

impl Access {
    fn shape(self) -> Shape {
        // SAFETY: `info` was handed to the callback.
        let (shift, store) =
            unsafe { (qemu_plugin_mem_size_shift(self.info), qemu_plugin_mem_is_store(self.info)) };
        Shape { size: 1 << shift, store }
    }

    /// What the emulator says where it went: whether it is a device, and the address it reports.
    pub fn hardware_address(self, vaddr: u64) -> Option<(bool, u64)> {
        // SAFETY: called within the callback that `info` was handed to, for an address of that access;
        // the handle is used before it returns.
        unsafe {
            let handle = qemu_plugin_get_hwaddr(self.info, vaddr);
            if handle.is_null() {
                return None;
            }
            Some((qemu_plugin_hwaddr_is_io(handle), qemu_plugin_hwaddr_phys_addr(handle)))
        }
    }
}

/// An instruction that is being translated.
pub struct Instruction {
    handle: *mut c_void,
    /// Its virtual address.
    pub vaddr: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where its first byte lies in the emulator's memory; 0 if it does not.
    pub host: usize,
}

impl Instruction {
    fn new(handle: *mut c_void) -> Instruction {
        // SAFETY: `handle` is an instruction of the block being translated; the data pointer is valid
        // for its size until the translation callback returns.
        unsafe {
            let size = qemu_plugin_insn_size(handle);
            let data = qemu_plugin_insn_data(handle).cast::<u8>();
            let bytes = std::slice::from_raw_parts(data, size).to_vec();
            let host = qemu_plugin_insn_haddr(handle).addr();
            Instruction { handle, vaddr: qemu_plugin_insn_vaddr(handle), bytes, host }
        }
    }

    /// Counts its executions in the kernel's or user mode's total.
    pub fn count(&self, user: bool) {
        let counter = COUNTS[usize::from(user)].as_ptr().cast();
        // SAFETY: the handle is valid (see `new`); the counter lives for ever, and translated code adds
        // to it on the one thread that also reads it.
        unsafe {
            qemu_plugin_register_vcpu_insn_exec_inline(self.handle, INLINE_ADD, counter, 1);
        }
    }

    /// Reports its execution as the begin of block `index`.
    pub fn report_block(&self, index: usize) {
        self.report(on_block, index);
    }

    /// Reports its execution as event `index`.
    pub fn report_event(&self, index: usize) {
        self.report(on_event, index);
    }

    fn report(&self, callback: ExecCallback, index: usize) {
        let data = ptr::without_provenance_mut(index);
        // SAFETY: the handle is valid (see `new`); the data is a number and never dereferenced.
        unsafe {
            qemu_plugin_register_vcpu_insn_exec_cb(self.handle, callback, NO_REGISTERS, data);
        }
    }

    /// Reports its loads and stores; those of a LIDT as such. (One callback for both: 7.2 calls only the
    /// first that is registered for an instruction's accesses.)
    pub fn report_accesses(&self, lidt: bool) {
        let data = ptr::without_provenance_mut(usize::from(lidt));
        // SAFETY: the handle is valid (see `new`); the data is a number and never dereferenced.
        unsafe {
            let cb = on_access;
            let flags = NO_REGISTERS;
            qemu_plugin_register_vcpu_mem_cb(self.handle, cb, flags, READS_AND_WRITES, data);
        }
    }
}

extern "C" fn on_block(cpu: c_uint, data: *mut c_void) {
    events::block(cpu as usize, data.addr());
}

extern "C" fn on_event(cpu: c_uint, data: *mut c_void) {
    events::event(cpu as usize, data.addr());
}

extern "C" fn on_access(cpu: c_uint, info: u32, vaddr: u64, data: *mut c_void) {
    if data.addr() != 0 {
        events::lidt(cpu as usize, vaddr, Access { info });
    }
    events::access(cpu as usize, vaddr, Access { info });
}

extern "C" fn on_translate(_id: u64, tb: *mut c_void) {
    // SAFETY: `tb` is valid during this callback; indices stay below the count.
    let block: Vec<Instruction> = unsafe {
        (0..qemu_plugin_tb_n_insns(tb))
            .map(|i| Instruction::new(qemu_plugin_tb_get_insn(tb, i)))
            .collect()
    };
    translate::block(&block);
}

/// A word of the emulator's memory that the guest may change at any time.
pub fn load_host(address: usize) -> u64 {
    let word: *const AtomicU64 = ptr::with_exposed_provenance(address);
    // SAFETY: `memory::Ram` calls this only with aligned addresses inside a mapping of guest memory that
    // exists as long as the emulator. An atomic load tolerates concurrent writers.
    unsafe { (*word).load(Ordering::Relaxed) }
}

/// Called by the emulator when it loads the plugin.
///
/// # Safety
/// Only the emulator calls it, with the arguments its API documents.
#[unsafe(no_mangle)]
unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    info: *const Info,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: `info` points to the documented structure; `argv` to `argc` C strings.
    let (info, arguments) = unsafe {
        let word = |i| CStr::from_ptr(*argv.add(i)).to_string_lossy().into_owned();
        (&*info, (0..argc.unsigned_abs() as usize).map(word).collect::<Vec<String>>())
    };
    // SAFETY: a C string for as long as the plugin is loaded.
    let target = unsafe { CStr::from_ptr(info.target_name) }.to_string_lossy();
    let known = info.version_cur == 1 && info.version_min <= 1;
    let result = if !known {
        let (min, cur) = (info.version_min, info.version_cur);
        Err(format!("this emulator speaks plugin API {min} to {cur}; 1 (QEMU 7.2) is supported"))
    } else if !info.system_emulation || target != "x86_64" {
        Err(format!("{target} is not a whole x86_64 machine"))
    } else {
        crate::install(&arguments, info.smp_vcpus.unsigned_abs() as usize)
    };
    match result {
        Ok(()) => {
            // SAFETY: `id` is ours; the callback has the documented signature.
            unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate) };
            0
        }
        Err(message) => {
            eprintln!("numasim: {message}");
            1
        }
    }
}
