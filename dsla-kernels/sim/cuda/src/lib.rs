#![doc = include_str!("../README.md")]

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
