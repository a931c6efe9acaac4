//! Execution: a launch, its CTAs, their warps.

mod access;
mod atom;
mod barrier;
mod collective;
mod copy;
mod cta;
mod env;
mod matrix;
mod step;
mod traffic;
mod warp;

pub(crate) use cta::launch;
pub(crate) use env::Env;
pub(crate) use warp::Warp;

use crate::FaultKind;

/// A fault before it knows its kernel and line.
#[derive(Debug)]
pub(crate) struct Hit {
    pub kind: FaultKind,
    pub lane: Option<usize>,
    pub detail: String,
}

impl Hit {
    #[cold]
    pub fn new(kind: FaultKind, lane: Option<usize>, detail: String) -> Hit {
        Hit { kind, lane, detail }
    }
}

pub(crate) type Run<T> = Result<T, Hit>;

/// Lanes of a mask, lowest first.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut m = mask;
    std::iter::from_fn(move || {
        (m != 0).then(|| {
            let i = m.trailing_zeros() as usize;
            m &= m - 1;
            i
        })
    })
}

/// A well-mixed 64-bit hash.
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}
