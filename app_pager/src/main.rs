//! The application pager of a node: the protocol machine of the library, connected to the kernel
//! (`docs/design/os.md`).
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

mod glue;

libl4::entry!(main);

fn main() {
    libl4::program::start();
    glue::start::run()
}
