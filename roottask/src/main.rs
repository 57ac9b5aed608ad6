//! The root task: takes the machine's memory from sigma0, starts system call servers, application
//! pagers and programs as the boot manifest says, serves the faults of what has no pager of its own,
//! and supervises (`docs/design/os.md`).
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

mod boot;
mod memory;
mod pagers;
mod plain;
mod pools;
mod programs;
mod servers;
mod supervise;
mod waiting;

use app_pager::layout::Numbers;
use libl4::{arch, exit, heap, println, thread};
use roottask::manifest::Manifest;
use supervise::System;

libl4::entry!(main);

/// log2 of the size of the root task's own heap.
const HEAP_LOG2: u8 = 22;
/// Thread numbers behind the first thread's that are left to tests.
const SPARE_NUMBERS: u32 = 16;

fn main() {
    exit::exit_on_panic();
    touch_image();
    heap::give_from_sigma0(HEAP_LOG2).expect("memory for the root task's heap");
    let modules = boot::Modules::take();
    let text = modules.find(l4abi::archive::MANIFEST_NAME).expect("a boot manifest");
    let manifest = match Manifest::parse(text.bytes()) {
        Ok(manifest) => manifest,
        Err(problem) => panic!("boot manifest: {problem}"),
    };
    let numbers = Numbers { base: thread::my_global_id().number().0 + SPARE_NUMBERS };
    println!(
        "root: {} modules, {} programs, {} nodes, {} CPUs",
        modules.len(),
        manifest.program.len(),
        libl4::topology::node_count(),
        libl4::topology::cpu_count()
    );
    System::new(manifest, modules, numbers).run()
}

/// Only the first thread can get pages from sigma0: with all of the image mapped, no other thread of
/// the root task ever faults.
fn touch_image() {
    let (first, last) = arch::image_range();
    let mut at = first;
    while at <= last {
        let _ = arch::touch_read(at);
        at += 4096;
    }
}
