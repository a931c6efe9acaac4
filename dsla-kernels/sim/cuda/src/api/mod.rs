//! The cu* symbols, as cuda.h of CUDA 12.8 declares them.

mod absent;
mod context;
mod control;
mod graph;
mod memory;
mod module;
mod stream;

use crate::code::{Code, Outcome};

/// A pointer that a C caller gave for a result. None is ever made in Rust.
#[repr(transparent)]
struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Write the result.
    fn set(self, value: T) -> Outcome {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, and the caller of a cu* function vouches that its result pointers take a write.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }
    /// Write it if the caller wants it.
    fn set_some(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: as in `set`.
            unsafe { self.0.write_unaligned(value) };
        }
    }
}

/// An exported function of the frame [`crate::state::enter`].
macro_rules! cu {
    ($name:ident($($argument:ident: $type:ty),* $(,)?) $dead:ident |$state:pat_param| $body:expr) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> u32 {
            crate::state::enter(stringify!($name), crate::state::Dead::$dead, |$state| $body)
        }
    };
}
use cu;
