//! Conformance: threads.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

libl4::entry!(main);

fn main() {
    bench::harness::run("threads", bench::conf::groups("threads"))
}
