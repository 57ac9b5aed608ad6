//! The processor architecture. Everything that needs an instruction, a port, an MSR or a control
//! register lives below this module.

pub mod x86_64;
