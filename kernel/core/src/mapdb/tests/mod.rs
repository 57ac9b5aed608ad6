//! Tests of the mapping database.

mod check;
mod model;
mod paths;
mod random;
mod sim;
mod stress;
