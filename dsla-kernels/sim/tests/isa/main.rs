//! Every instruction, every check and every counter, by small kernels run through the public interface. Expected values are
//! written from the text of the PTX ISA.

// Tables of functions and bits are types by themselves.
#![allow(clippy::type_complexity)]

mod common;
mod compare;
mod control;
mod convert;
mod counters;
mod faults;
mod plants;
mod ptxas;
mod schedule;

mod float;
mod half;
mod int;
mod kernels;
mod launch;
mod load;

mod logic;
mod memory;

mod tensor;
mod warp;
