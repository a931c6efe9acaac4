//! Criterion benches over every op and the whole model.
