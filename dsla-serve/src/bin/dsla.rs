//! The `dsla` command line.
fn main() {}
