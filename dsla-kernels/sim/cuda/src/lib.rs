//! A fake libcuda over the PTX simulator [`ptxsim`]: unmodified programs of the CUDA driver API run without a GPU.
//!
//! The crate is two things. As a shared library it exports the `cu*` symbols and holds all state. As a Rust library
//! it is the test's side: [`Fake::install`] loads the shared one under libcuda's name, before the program under
//! test asks for libcuda, and the methods of [`Fake`] set it up and look inside.

mod api;
mod capture;
mod code;
mod device;
mod host;
mod queue;
mod state;
mod wire;

pub use host::{Error, Fake, Session};
pub use wire::{FaultInfo, LaunchInfo, Options, Usage};
