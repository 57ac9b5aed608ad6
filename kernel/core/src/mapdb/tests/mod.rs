//! Tests of the mapping database.

mod attribute;
mod check;
mod holdings;
mod model;
mod paths;
mod ports;
mod random;
mod sim;
mod stress;
mod view;
