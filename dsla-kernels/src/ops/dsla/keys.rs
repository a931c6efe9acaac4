//! One chunk under scalar decays, as products over all heads of a kv head read it, forward and backward. Queries come in blocks
//! of 16 positions, in a block head by head: a block needs the keys up to its last position only, 5/8 of the square in all.

use super::Dims;
use super::chunk::{CHUNK, Linear, cumulative};
use crate::host::Host;
use crate::multiversion;
use crate::simd::exp_fall;
use crate::vec::head_rows;

/// Positions per block of queries.
pub const BLOCK: usize = 16;
/// Elements between rows of features beyond their own: rows a power of two apart would share a few lines of the cache.
pub const PAD: usize = 16;

/// One chunk of keys and values of one kv head.
pub struct Keys {
    /// Keys a..a + len.
    pub a: usize,
    pub len: usize,
    /// phi_k [len, F], `ld` apart.
    pub k: Host<f32>,
    pub ld: usize,
    /// v and a one [len, D + 1].
    pub v: Host<f32>,
    /// Cumulative log decays per state [len].
    pub c: [Host<f64>; 2],
    /// e^c: what is left of the states before the chunk, per state and token.
    pub reach: [[f32; CHUNK]; 2],
    /// e^(c_last - c): what is left of a token at the chunk's end.
    pub keep: [[f32; CHUNK]; 2],
}

impl Keys {
    pub fn load(x: &Linear, n: Dims, g: usize, at: usize) -> Keys {
        let a = at * CHUNK;
        let (len, ld, wide) = (CHUNK.min(n.l - a), n.f + PAD, n.d + 1);
        let (mut k, mut v) = (Host::<f32>::scratch(len * ld), Host::<f32>::scratch(len * wide));
        let mut row = Host::<f32>::scratch(n.d);
        for t in 0..len {
            k[t * ld..][..n.f].copy_from_slice(&x.phi_k[((a + t) * n.g + g) * n.f..][..n.f]);
            head_rows(&x.v, g, a + t, 1, &mut row);
            v[t * wide..][..n.d].copy_from_slice(&row);
            v[t * wide + n.d] = 1.0;
        }
        let c = cumulative(x.log_decay, n, g, a, len);
        let (mut reach, mut keep) = ([[0.0; CHUNK]; 2], [[0.0; CHUNK]; 2]);
        for i in 0..2 {
            shares(&c[i], &mut reach[i], &mut keep[i]);
        }
        Keys { a, len, k, ld, v, c, reach, keep }
    }

    /// e^c of the last token: what is left of a state after the chunk.
    pub fn fade(&self, i: usize) -> f32 {
        self.reach[i][self.len - 1]
    }

    /// Position of every row of its queries, head by head in blocks: (position in the chunk, head in the group).
    pub fn order(&self, group: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let len = self.len;
        (0..len).step_by(BLOCK).flat_map(move |s0| {
            (0..group).flat_map(move |i| (s0..len.min(s0 + BLOCK)).map(move |s| (s, i)))
        })
    }
}

multiversion! {
    /// reach = e^c, keep = e^(c_last - c).
    pub fn shares<const FMA: bool>(c: &[f64], reach: &mut [f32; CHUNK], keep: &mut [f32; CHUNK]) {
        let last = c[c.len() - 1];
        for ((c, reach), keep) in c.iter().zip(reach).zip(keep) {
            (*reach, *keep) = (exp_fall::<FMA>(*c as f32), exp_fall::<FMA>((last - c) as f32));
        }
    }
}
