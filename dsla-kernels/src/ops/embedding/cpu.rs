//! Forward: rows in parallel. Backward: each piece owns a range of table rows and walks all ids in order, so that
//! repeated ids add up in the order of t whatever the number of threads, with neither atomics nor a sort.

use crate::vec::widen;
use crate::{bf16, f16, multiversion, par};

const ROWS: usize = 16;
/// Pieces of the table in [`backward`]: enough for many cores, few enough that reading the ids this often is cheap
/// against the adds.
const PIECES: usize = 32;

pub fn forward_f32(table: &[f32], ids: &[u32], y: &mut [f32], c: usize) {
    par::for_each_chunk(y, ROWS * c, |i, y| {
        for (y, &id) in y.chunks_exact_mut(c).zip(&ids[i * ROWS..]) {
            y.copy_from_slice(&table[id as usize * c..][..c]);
        }
    });
}

pub fn forward_bf16(table: &[bf16], ids: &[u32], y: &mut [f32], c: usize) {
    par::for_each_chunk(y, ROWS * c, |i, y| {
        for (y, &id) in y.chunks_exact_mut(c).zip(&ids[i * ROWS..]) {
            widen(&table[id as usize * c..][..c], y);
        }
    });
}

pub fn forward_f16(table: &[f16], ids: &[u32], y: &mut [f32], c: usize) {
    par::for_each_chunk(y, ROWS * c, |i, y| {
        for (y, &id) in y.chunks_exact_mut(c).zip(&ids[i * ROWS..]) {
            y.iter_mut().zip(&table[id as usize * c..][..c]).for_each(|(y, x)| *y = x.to_f32());
        }
    });
}


pub fn backward(ids: &[u32], dy: &[f32], dtable: &mut [f32], v: usize, c: usize) {
    let rows = v.div_ceil(PIECES).max(1);
    par::for_each_chunk(dtable, rows * c, |i, piece| {
        let first = i * rows;
        let end = first + piece.len() / c;
        for (&id, dy) in ids.iter().zip(dy.chunks_exact(c)) {
            let id = id as usize;
            if (first..end).contains(&id) {
                add(&mut piece[(id - first) * c..][..c], dy);
            }
        }
    });
}

multiversion! {
    fn add<const FMA: bool>(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}
