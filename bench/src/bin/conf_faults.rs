//! Conformance: faults.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

libl4::entry!(main);

fn main() {
    bench::harness::run("faults", bench::conf::groups("faults"))
}
