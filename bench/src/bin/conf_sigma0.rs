//! Conformance: sigma0.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

libl4::entry!(main);

fn main() {
    bench::harness::run("sigma0", bench::conf::groups("sigma0"))
}
