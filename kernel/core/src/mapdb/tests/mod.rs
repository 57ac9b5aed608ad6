//! Tests of the mapping database.

mod check;
mod model;
mod random;
mod sim;
mod stress;
