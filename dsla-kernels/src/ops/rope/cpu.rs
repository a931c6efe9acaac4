//! Tokens in parallel, pairs in vectors.

use super::{Table, Turn};
use crate::{multiversion, par, simd::madd};

const ROWS: usize = 16;

pub fn rotate(x: &mut [f32], positions: &[u32], table: &Table, heads: usize, turn: Turn) {
    let pairs = table.pairs();
    let row = heads * 2 * pairs;
    let (cos, sin) = (table.cos.f32(), table.sin.f32());
    let (sign, factor) = turn.scalars(table);
    par::for_each_chunk(x, ROWS * row, |i, x| {
        for (x, &p) in x.chunks_exact_mut(row).zip(&positions[i * ROWS..]) {
            let at = p as usize * pairs;
            token(x, &cos[at..at + pairs], &sin[at..at + pairs], sign, factor);
        }
    });
}

multiversion! {
    /// All heads of one token. A factor of 1 changes nothing, so the plain rotation needs no body of its own.
    fn token<const FMA: bool>(x: &mut [f32], cos: &[f32], sin: &[f32], sign: f32, factor: f32) {
        let half = cos.len();
        for head in x.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for (((a, b), &c), &s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let (c, s) = (c * factor, s * factor * sign);
                (*a, *b) = (madd::<FMA>(*a, c, -(*b * s)), madd::<FMA>(*b, c, *a * s));
            }
        }
    }
}
