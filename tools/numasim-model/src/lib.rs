//! The placement instrument's model: pure logic, no emulator, no `unsafe`.
//!
//! The emulator plugin (`tools/numasim`) reports what the guest's CPUs do: a run of instructions in
//! one cache line, a load, a store, an instruction of interest, a marker. [`sim::Sim`] turns that into
//! counts per region of interest, CPU, privilege, level and home node, and advances one modelled
//! clock per CPU. What is modelled and what is not: `docs/design/instrument.md`.
//!
//! | module | holds |
//! | --- | --- |
//! | [`config`] | the machine: CPUs, nodes, distances, cache geometry, latencies |
//! | [`phys`] | guest-physical addresses to nodes and to dense line numbers |
//! | [`cache`], [`coherence`] | set-associative tags; the full-map directory over them |
//! | [`tlb`], [`walk`] | translation buffers and the page walks that fill them |
//! | [`counters`], [`region`] | what is counted, and where it is booked |
//! | [`cpu`], [`sim`] | clocks, causality, scheduling, the events |
//! | [`decode`] | which instructions are of interest |
//! | [`report`] | the JSON lines |
#![forbid(unsafe_code)]

pub mod cache;
pub mod coherence;
pub mod config;
pub mod counters;
pub mod cpu;
pub mod decode;
pub mod lines;
pub mod phys;
pub mod region;
pub mod report;
pub mod sim;
pub mod tlb;
pub mod walk;

/// Bytes of a cache line, the unit of everything here (all x86-64 CPUs).
pub const LINE: u64 = 64;

/// Most nodes the instrument can tell apart.
pub const MAX_NODES: usize = 16;

/// Most CPUs the instrument can tell apart (one bit each in a directory entry).
pub const MAX_CPUS: usize = 64;
