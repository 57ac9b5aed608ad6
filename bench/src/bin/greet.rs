//! A small program for the root task to start: says who it is, uses its heap, and ends as its first
//! argument says (`leave`, `fail`, `panic`, `trap`, `stray`, `stray-io`).
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use libl4::arch::{self, probe};
use libl4::exit::Outcome;
use libl4::{println, program, thread, topology};

libl4::program!(main);

fn main() {
    let args = program::args();
    let name = args.first().map_or("?", alloc::string::String::as_str);
    println!(
        "{name}: thread {} on CPU {}, node {}, arguments {:?}",
        thread::my_global_id(),
        thread::my_cpu().0,
        topology::my_node().0,
        &args[1..]
    );
    let squares: Vec<u64> = (0..1000).map(|i| i * i).collect();
    assert_eq!(squares.iter().sum::<u64>(), 332_833_500);
    match args.get(1).map(alloc::string::String::as_str) {
        Some("fail") => program::exit(Outcome::Failed),
        Some("panic") => panic!("as asked"),
        Some("trap") => {
            let _ = probe::raise(probe::Trap::InvalidOpcode, 0);
        }
        Some("stray") => {
            let _ = arch::touch_read(0x7000_0000_0000);
        }
        Some("stray-io") => arch::port_write(0x64, 0xFE),
        _ => {}
    }
}
