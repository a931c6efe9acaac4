//! Tokens in parallel, pairs in vectors.

use super::{Table, Turn};
use crate::host::Host;
use crate::vec::narrow;
use crate::{SliceMut, f16, multiversion, par, simd::madd};

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

/// [`rotate`], from x into another tensor of the same shape.
pub fn into(x: &[f32], positions: &[u32], table: &Table, heads: usize, y: SliceMut) {
    let pairs = table.pairs();
    let row = (heads * 2 * pairs).max(1);
    let (cos, sin) = (table.cos.f32(), table.sin.f32());
    let turned = |at: usize, y: &mut [f32]| {
        y.copy_from_slice(&x[at * row..][..y.len()]);
        for (y, &p) in y.chunks_exact_mut(row).zip(&positions[at..]) {
            let at = p as usize * pairs;
            token(y, &cos[at..at + pairs], &sin[at..at + pairs], 1.0, 1.0);
        }
    };
    match y {
        SliceMut::F32(y) => par::for_each_chunk(y, ROWS * row, |i, y| turned(i * ROWS, y)),
        SliceMut::BF16(y) => par::for_each_chunk(y, ROWS * row, |i, y| {
            let mut wide = Host::scratch(y.len());
            turned(i * ROWS, &mut wide);
            narrow(&wide, y);
        }),
        SliceMut::F16(y) => par::for_each_chunk(y, ROWS * row, |i, y| {
            let mut wide = Host::scratch(y.len());
            turned(i * ROWS, &mut wide);
            y.iter_mut().zip(&*wide).for_each(|(y, x)| *y = f16::from_f32(*x));
        }),
        SliceMut::U32(_) => unreachable!("dtypes were checked"),
    }
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
