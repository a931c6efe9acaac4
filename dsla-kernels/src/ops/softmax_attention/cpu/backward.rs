//! The backward pass: tiles of queries, all heads of a kv head together, against blocks of keys. A tile keeps its exponentials
//! of all keys, so scores are computed once; what its keys get is added up over the tiles of a task, then over tasks in order.

use super::super::Dims;
use crate::gemm::{Into, gemm, panels, product_panels, rows, transposed};
use crate::host::Host;
use crate::par::{self, SendPtr};
use crate::vec::{axpy, dot, exp_sub_sum, head_rows, max, scaled};
use crate::{View, multiversion};

/// Queries per tile: with three heads in a group 192 rows.
const TILE: usize = 64;
/// Keys per block.
const BLOCK: usize = 128;
/// Elements between rows beyond their own: rows a power of two apart would share a few lines of the cache.
const PAD: usize = 16;
/// From row to row of a tile's exponentials and of the gradients of scores.
const LD: usize = BLOCK + PAD;
/// Tasks per kv head at most: each has sums of its own for all keys it sees.
const TASKS: usize = 8;

pub fn backward(
    q: &[f32],
    k: View,
    v: View,
    n: Dims,
    out: &[f32],
    d_out: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let tiles = n.t.div_ceil(TILE);
    let tasks = tiles.div_ceil(4).min(TASKS);
    if tasks == 0 || n.d == 0 || n.h == 0 {
        // No queries: nothing reaches the keys.
        return [dk, dv].into_iter().for_each(|x| x.fill(0.0));
    }
    let mut packed: Vec<Keys> = (0..n.g).map(|_| Keys::scratch(n)).collect();
    let blocks = n.s.div_ceil(BLOCK);
    let into: Vec<_> = packed.iter_mut().map(Keys::pointers).collect();
    par::for_each(n.g * blocks, |task| {
        // SAFETY: a block of keys of a kv head is one task's.
        unsafe { load(&k, &v, n, task % n.g, task / n.g * BLOCK, into[task % n.g]) }
    });
    // Tiles of task i, of a triangle's area about the same for all.
    let first = |i: usize| ((i as f64 / tasks as f64).sqrt() * tiles as f64).round() as usize;
    let seen = |i: usize| (n.s - n.t) + (first(i + 1) * TILE).min(n.t);
    let starts: Vec<usize> = (0..=tasks).scan(0, |sum, i| Some(std::mem::replace(sum, *sum + if i < tasks { seen(i) } else { 0 }))).collect();
    let size = starts[tasks] * n.d;
    let mut sums = [Host::<f32>::scratch(n.g * size), Host::<f32>::scratch(n.g * size)];
    let (sp, qp) = (sums.each_mut().map(|s| SendPtr(s.as_mut_ptr())), SendPtr(dq.as_mut_ptr()));
    // The last sees most keys.
    par::for_each(n.g * tasks, |task| {
        let (g, i) = (task % n.g, tasks - 1 - task / n.g);
        let mine = sp.map(|s| {
            // SAFETY: (kv head, task) has its own sums.
            let s = unsafe { std::slice::from_raw_parts_mut(s.get().add(g * size + starts[i] * n.d), seen(i) * n.d) };
            s.fill(0.0);
            s
        });
        let [dk, dv] = mine;
        for tile in first(i)..first(i + 1) {
            tile_back(q, &packed[g], n, g, tile * TILE, [out, d_out], qp, dk, dv);
        }
    });
    let (kp, vp) = (SendPtr(dk.as_mut_ptr()), SendPtr(dv.as_mut_ptr()));
    par::for_each(n.g * blocks, |task| {
        let (g, j0) = (task % n.g, task / n.g * BLOCK);
        for j in j0..n.s.min(j0 + BLOCK) {
            for (sums, out) in sums.iter().zip([kp, vp]) {
                // SAFETY: a block of keys of a kv head is one task's.
                let out = unsafe { std::slice::from_raw_parts_mut(out.get().add((j * n.g + g) * n.d), n.d) };
                out.fill(0.0);
                for i in (0..tasks).filter(|&i| j < seen(i)) {
                    axpy(1.0, &sums[g * size + (starts[i] + j) * n.d..][..n.d], out);
                }
            }
        }
    });
}

/// Keys and values of one kv head: as rows and as panels of 16 [S / 16][..][16]; a value has a one behind it, so that a product
/// with [d_out, -delta] has the whole gradient of a weight.
struct Keys {
    /// [S, D], `n.d + PAD` apart.
    k: Host<f32>,
    /// [S / 16][D][16].
    kt: Host<f32>,
    /// [S / 16][D + 1][16].
    vt: Host<f32>,
}

impl Keys {
    fn scratch(n: Dims) -> Keys {
        let (scratch, padded) = (Host::<f32>::scratch, n.s.next_multiple_of(16));
        Keys { k: scratch(n.s * (n.d + PAD)), kt: scratch(padded * n.d), vt: scratch(padded * (n.d + 1)) }
    }

    fn pointers(&mut self) -> [SendPtr<f32>; 3] {
        [&mut self.k, &mut self.kt, &mut self.vt].map(|x| SendPtr(x.as_mut_ptr()))
    }
}

/// # Safety
/// The block of keys from j0 on must be this caller's alone.
unsafe fn load(k: &View, v: &View, n: Dims, g: usize, j0: usize, [kp, ktp, vtp]: [SendPtr<f32>; 3]) {
    let (here, ld, wide) = (BLOCK.min(n.s - j0), n.d + PAD, n.d + 1);
    let padded = here.next_multiple_of(16);
    // SAFETY: the caller's; blocks are whole panels.
    let (rows, kt, vt) = unsafe {
        (
            std::slice::from_raw_parts_mut(kp.get().add(j0 * ld), here * ld),
            std::slice::from_raw_parts_mut(ktp.get().add(j0 * n.d), padded * n.d),
            std::slice::from_raw_parts_mut(vtp.get().add(j0 * wide), padded * wide),
        )
    };
    let mut values = Host::<f32>::scratch(here * wide);
    for j in 0..here {
        head_rows(k, g, j0 + j, 1, &mut rows[j * ld..][..n.d]);
        head_rows(v, g, j0 + j, 1, &mut values[j * wide..][..n.d]);
        values[j * wide + n.d] = 1.0;
    }
    panels(rows, ld, here, n.d, kt);
    panels(&values, wide, here, wide, vt);
}

/// Queries t0.. of kv head g: dq written, dk and dv [seen, D] added to.
fn tile_back(
    q: &[f32],
    keys: &Keys,
    n: Dims,
    g: usize,
    t0: usize,
    [out, d_out]: [&[f32]; 2],
    dq: SendPtr<f32>,
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let m = TILE.min(n.t - t0);
    let (group, d, ld, wide) = (n.h / n.g, n.d, n.d + PAD, n.d + 1);
    let (before, height) = (n.s - n.t + t0, group * m);
    let seen = before + m;
    let scale = 1.0 / (d as f32).sqrt();
    // Rows (head, query).
    let at = |row: usize| ((t0 + row % m) * n.h + g * group + row / m) * d;
    let visible = |row: usize, j0: usize| (before + row % m + 1).saturating_sub(j0);
    let scratch = Host::<f32>::scratch;
    let (mut qs, mut d_o, mut d_q) = (scratch(height * ld), scratch(height * ld), Host::<f32>::zeros(height * d));
    for (row, qs) in qs.chunks_exact_mut(ld).enumerate() {
        scaled(&q[at(row)..][..d], scale, &mut qs[..d]);
    }
    let mut e = scratch(seen.div_ceil(BLOCK) * height * LD);
    let mut peaks = vec![f32::NEG_INFINITY; height];
    for (e, j0) in e.chunks_exact_mut(height * LD).zip((0..seen).step_by(BLOCK)) {
        let cols = BLOCK.min(seen - j0);
        product_panels(Into::Store, height, cols, d, rows(&qs, ld), &keys.kt[j0 * d..], e, LD);
        for (row, (e, peak)) in e.chunks_exact(LD).zip(&mut peaks).enumerate() {
            *peak = max(&e[..visible(row, j0).min(cols)]).max(*peak);
        }
    }
    let mut sums = vec![0.0f32; height];
    for (e, j0) in e.chunks_exact_mut(height * LD).zip((0..seen).step_by(BLOCK)) {
        let cols = BLOCK.min(seen - j0);
        for (row, (e, sum)) in e.chunks_exact_mut(LD).zip(&mut sums).enumerate() {
            let (e, hidden) = e[..cols].split_at_mut(visible(row, j0).min(cols));
            *sum += exp_sub_sum(e, peaks[row]);
            hidden.fill(0.0);
        }
    }
    // d_out and -out . d_out over the row's sum: exponentials then take the place of weights.
    for (row, d_o) in d_o.chunks_exact_mut(ld).enumerate() {
        let (o, from) = (&out[at(row)..][..d], &d_out[at(row)..][..d]);
        let inv = 1.0 / sums[row];
        scaled(from, inv, &mut d_o[..d]);
        d_o[d] = -dot(o, from) * inv;
    }
    let mut ds = scratch(height * LD);
    for (e, j0) in e.chunks_exact(height * LD).zip((0..seen).step_by(BLOCK)) {
        let cols = BLOCK.min(seen - j0);
        product_panels(Into::Store, height, cols, wide, rows(&d_o, ld), &keys.vt[j0 * wide..], &mut ds, LD);
        times(e, &mut ds, LD, cols);
        gemm(Into::Add, cols, d, height, transposed(e, LD), &d_o, ld, &mut dv[j0 * d..], d);
        gemm(Into::Add, cols, d, height, transposed(&ds, LD), &qs, ld, &mut dk[j0 * d..], d);
        gemm(Into::Add, height, d, cols, rows(&ds, LD), &keys.k[j0 * ld..], ld, &mut d_q, d);
    }
    for (row, from) in d_q.chunks_exact(d).enumerate() {
        // SAFETY: (query, head) rows belong to this (tile, kv head) alone.
        scaled(from, scale, unsafe { std::slice::from_raw_parts_mut(dq.get().add(at(row)), d) });
    }
}

multiversion! {
    /// y *= x in the first `cols` of rows of `ld`.
    fn times<const FMA: bool>(x: &[f32], y: &mut [f32], ld: usize, cols: usize) {
        let _ = FMA;
        for (x, y) in x.chunks_exact(ld).zip(y.chunks_exact_mut(ld)) {
            y[..cols].iter_mut().zip(&x[..cols]).for_each(|(y, x)| *y *= x);
        }
    }
}
