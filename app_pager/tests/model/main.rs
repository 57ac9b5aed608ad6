//! Model checks of the pager protocol: the real machine, explored exhaustively for 2 and 3 nodes
//! under a faithful model of synchronous IPC (docs/design/pagers.md).
#![forbid(unsafe_code)]

mod check;
mod counts;
mod exec;
mod faults;
mod hardware;
mod ipc;
mod placement;
mod random;
mod threads;
mod three;
mod world;
