//! The CPU path: prefill in tiles, decode in splits, backward in blocks.

mod backward;
mod decode;
mod pairs;
mod prefill;
#[cfg(target_arch = "x86_64")]
mod tiles;

use super::Dims;
use crate::cache::Rows;

pub use backward::backward;
pub use decode::paged;

/// Queries that are worth a pass of their own over the cache each: packing it costs more. (As on a GPU.)
const FEW: usize = 8;

pub fn forward(q: &[f32], k: Rows, v: Rows, n: Dims, out: &mut [f32]) {
    if n.t > FEW {
        return prefill::forward(q, k, v, n, out);
    }
    let width = n.h * n.d;
    for (t, (q, out)) in q.chunks_exact(width.max(1)).zip(out.chunks_exact_mut(width.max(1))).enumerate() {
        decode::decode_one(q, k, v, Dims { t: 1, s: n.s - n.t + t + 1, ..n }, out);
    }
}
