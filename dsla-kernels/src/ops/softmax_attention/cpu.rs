//! Prefill: tiles of queries against blocks of keys with a running maximum (online softmax). Decode: fixed blocks
//! of keys in parallel, combined in order, so that the result does not depend on the number of threads.

use super::{Dims, Paged};
use crate::View;
use crate::gemm::{Into, gemm, rows, transposed};
use crate::par::{self, SendPtr};
use crate::vec::{axpy, dot, exp_sub_sum, head_rows, max, scores, transpose, weighted};

/// Queries per tile and keys per block.
const TILE: usize = 64;
const BLOCK: usize = 128;
/// Keys per decode task.
const SPLIT: usize = 512;

pub fn forward(q: &[f32], k: View, v: View, n: Dims, out: &mut [f32]) {
    if n.t == 1 {
        return decode(q, &Rows { x: k, pages: None }, &Rows { x: v, pages: None }, n, out);
    }
    let tiles = n.t.div_ceil(TILE);
    let op = SendPtr(out.as_mut_ptr());
    // Long rows first, so that the last tasks are short.
    par::for_each(tiles * n.g, |task| {
        let (tile, g) = (tiles - 1 - task / n.g, task % n.g);
        prefill_tile(q, k, v, n, g, tile, op);
    });
}

/// One block of keys of one kv head as f32: K transposed [D, cols] and V [cols, D].
struct Block {
    j0: usize,
    cols: usize,
    kt: Vec<f32>,
    v: Vec<f32>,
    k: Vec<f32>,
}

impl Block {
    fn new(n: Dims) -> Block {
        let buf = || vec![0.0; BLOCK * n.d];
        Block { j0: 0, cols: 0, kt: buf(), v: buf(), k: buf() }
    }

    fn load(&mut self, k: &View, v: &View, n: Dims, g: usize, j0: usize, cols: usize) {
        (self.j0, self.cols) = (j0, cols);
        head_rows(k, g, j0, cols, &mut self.k);
        head_rows(v, g, j0, cols, &mut self.v);
        transpose(&self.k, n.d, cols, n.d, &mut self.kt, cols);
    }

    /// Scaled scores of queries t0..t0 + m, masked, into a [m, cols].
    fn scores(&self, q: &[f32], n: Dims, t0: usize, m: usize, a: &mut [f32]) {
        gemm(Into::Store, m, self.cols, n.d, rows(q, n.h * n.d), &self.kt, self.cols, a, self.cols);
        let scale = 1.0 / (n.d as f32).sqrt();
        for r in 0..m {
            let row = &mut a[r * self.cols..(r + 1) * self.cols];
            let seen = (n.s - n.t + t0 + r + 1).saturating_sub(self.j0).min(self.cols);
            row[..seen].iter_mut().for_each(|s| *s *= scale);
            row[seen..].fill(f32::NEG_INFINITY);
        }
    }
}

fn prefill_tile(q: &[f32], k: View, v: View, n: Dims, g: usize, tile: usize, out: SendPtr<f32>) {
    let (t0, m) = (tile * TILE, TILE.min(n.t - tile * TILE));
    let (group, seen) = (n.h / n.g, n.s - n.t + t0 + m);
    let mut block = Block::new(n);
    let mut a = vec![0.0; m * BLOCK];
    let mut acc = vec![0.0; group * m * n.d];
    let mut stats = vec![(f32::NEG_INFINITY, 0.0f32); group * m];
    for j0 in (0..seen).step_by(BLOCK) {
        block.load(&k, &v, n, g, j0, BLOCK.min(seen - j0));
        let cols = block.cols;
        for i in 0..group {
            let h = g * group + i;
            let a = &mut a[..m * cols];
            block.scores(&q[(t0 * n.h + h) * n.d..], n, t0, m, a);
            let acc = &mut acc[i * m * n.d..(i + 1) * m * n.d];
            for r in 0..m {
                let (row, (peak, sum)) = (&mut a[r * cols..(r + 1) * cols], &mut stats[i * m + r]);
                let top = max(row).max(*peak);
                if top == f32::NEG_INFINITY {
                    row.fill(0.0);
                    continue;
                }
                let fade = (*peak - top).exp();
                *sum = *sum * fade + exp_sub_sum(row, top);
                *peak = top;
                if fade != 1.0 {
                    acc[r * n.d..(r + 1) * n.d].iter_mut().for_each(|x| *x *= fade);
                }
            }
            gemm(Into::Add, m, n.d, cols, rows(a, cols), &block.v, n.d, acc, n.d);
        }
    }
    for i in 0..group {
        for r in 0..m {
            let at = ((t0 + r) * n.h + g * group + i) * n.d;
            // SAFETY: (query, head) rows belong to this (tile, kv head) task alone.
            let o = unsafe { std::slice::from_raw_parts_mut(out.get().add(at), n.d) };
            let inv = 1.0 / stats[i * m + r].1;
            o.iter_mut().zip(&acc[(i * m + r) * n.d..]).for_each(|(o, x)| *o = x * inv);
        }
    }
}

/// Decode of sequences whose keys lie in pages, one after the other.
pub fn paged(q: &[f32], k: View, v: View, table: &[u32], lens: &[u32], n: Paged, out: &mut [f32]) {
    let flat = [n.p * n.page, n.g, n.d];
    let (k, v, width) = (k.reshape(flat), v.reshape(flat), n.h * n.d);
    for (b, &s) in lens.iter().enumerate() {
        let pages = &table[b * n.pages..][..n.pages];
        let rows = |x| Rows { x, pages: Some((pages, n.page)) };
        let one = Dims { t: 1, s: s as usize, h: n.h, g: n.g, d: n.d };
        let (q, out) = (&q[b * width..][..width], &mut out[b * width..][..width]);
        if s == 0 {
            out.fill(0.0);
        } else {
            decode(q, &rows(k), &rows(v), one, out);
        }
    }
}

/// Rows of a cache, in one piece or on pages.
struct Rows<'a> {
    x: View<'a>,
    /// Which rows of pages of this size.
    pages: Option<(&'a [u32], usize)>,
}

impl Rows<'_> {
    /// Rows j.. of kv head g as f32, as many as fill `dst`.
    fn read(&self, g: usize, mut j: usize, d: usize, mut dst: &mut [f32]) {
        let Some((pages, page)) = self.pages else {
            return head_rows(&self.x, g, j, dst.len() / d, dst);
        };
        while !dst.is_empty() {
            let run = (page - j % page).min(dst.len() / d);
            let (now, rest) = dst.split_at_mut(run * d);
            head_rows(&self.x, g, pages[j / page] as usize * page + j % page, run, now);
            (dst, j) = (rest, j + run);
        }
    }
}

fn decode(q: &[f32], k: &Rows, v: &Rows, n: Dims, out: &mut [f32]) {
    let (group, splits) = (n.h / n.g, n.s.div_ceil(SPLIT));
    // Per (split, query head): peak, sum, then D sums.
    let size = n.d + 2;
    let mut parts = vec![0.0f32; splits * n.h * size];
    par::for_each_chunk(&mut parts, group * size, |task, part| {
        let (split, g) = (task / n.g, task % n.g);
        let (j0, j1) = (split * SPLIT, ((split + 1) * SPLIT).min(n.s));
        let cols = j1 - j0;
        let mut buf = vec![0.0; BLOCK * n.d];
        let mut a = vec![0.0; group * cols];
        let scale = 1.0 / (n.d as f32).sqrt();
        let q = &q[g * group * n.d..(g + 1) * group * n.d];
        for j in (0..cols).step_by(BLOCK) {
            let rows = &mut buf[..BLOCK.min(cols - j) * n.d];
            k.read(g, j0 + j, n.d, rows);
            scores(q, rows, n.d, scale, &mut a[j..], cols);
        }
        part.fill(0.0);
        for i in 0..group {
            let row = &mut a[i * cols..(i + 1) * cols];
            part[i * size] = max(row);
            part[i * size + 1] = exp_sub_sum(row, part[i * size]);
        }
        for j in (0..cols).step_by(BLOCK) {
            let rows = &mut buf[..BLOCK.min(cols - j) * n.d];
            v.read(g, j0 + j, n.d, rows);
            weighted(&a[j..], cols, rows, n.d, &mut part[2..], size);
        }
    });
    out.fill(0.0);
    for h in 0..n.h {
        let part = |split: usize| &parts[(split * n.h + h) * size..][..size];
        let peak = (0..splits).fold(f32::NEG_INFINITY, |m, s| m.max(part(s)[0]));
        let (mut sum, o) = (0.0, &mut out[h * n.d..(h + 1) * n.d]);
        for split in 0..splits {
            let w = (part(split)[0] - peak).exp();
            sum += w * part(split)[1];
            axpy(w, &part(split)[2..], o);
        }
        o.iter_mut().for_each(|x| *x /= sum);
    }
}

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
    dq.fill(0.0);
    dk.fill(0.0);
    dv.fill(0.0);
    let group = n.h / n.g;
    let scale = 1.0 / (n.d as f32).sqrt();
    let (qp, kp, vp) = (SendPtr(dq.as_mut_ptr()), SendPtr(dk.as_mut_ptr()), SendPtr(dv.as_mut_ptr()));
    par::for_each(n.g, |g| {
        let mut block = Block::new(n);
        let (mut a, mut da) = (vec![0.0; TILE * BLOCK], vec![0.0; TILE * BLOCK]);
        let (mut dkb, mut dvb, mut vt) =
            (vec![0.0; BLOCK * n.d], vec![0.0; BLOCK * n.d], vec![0.0; BLOCK * n.d]);
        // log-sum-exp per (query, head of the group), by one pass over the keys first.
        let mut stats = vec![(f32::NEG_INFINITY, 0.0f32); n.t * group];
        for pass in 0..2 {
            for j0 in (0..n.s).step_by(BLOCK) {
                block.load(&k, &v, n, g, j0, BLOCK.min(n.s - j0));
                let cols = block.cols;
                transpose(&block.v, n.d, cols, n.d, &mut vt, cols);
                dkb.fill(0.0);
                dvb.fill(0.0);
                let first = j0.saturating_sub(n.s - n.t) / TILE * TILE;
                for t0 in (first..n.t).step_by(TILE) {
                    let m = TILE.min(n.t - t0);
                    for i in 0..group {
                        let row = t0 * n.h + g * group + i;
                        let a = &mut a[..m * cols];
                        block.scores(&q[row * n.d..], n, t0, m, a);
                        if pass == 0 {
                            for r in 0..m {
                                let (peak, sum) = &mut stats[(t0 + r) * group + i];
                                let x = &mut a[r * cols..(r + 1) * cols];
                                let top = max(x).max(*peak);
                                if top > f32::NEG_INFINITY {
                                    *sum = *sum * (*peak - top).exp() + exp_sub_sum(x, top);
                                    *peak = top;
                                }
                            }
                            continue;
                        }
                        let d_o = &d_out[row * n.d..];
                        let da = &mut da[..m * cols];
                        gemm(Into::Store, m, cols, n.d, rows(d_o, n.h * n.d), &vt, cols, da, cols);
                        for r in 0..m {
                            let (peak, sum) = stats[(t0 + r) * group + i];
                            let at = (row + r * n.h) * n.d;
                            let along = dot(&out[at..at + n.d], &d_out[at..at + n.d]);
                            let (x, dx) =
                                (&mut a[r * cols..(r + 1) * cols], &mut da[r * cols..(r + 1) * cols]);
                            exp_sub_sum(x, peak);
                            for (x, dx) in x.iter_mut().zip(dx) {
                                *x /= sum;
                                *dx = *x * (*dx - along) * scale;
                            }
                        }
                        gemm(Into::Add, cols, n.d, m, transposed(a, cols), d_o, n.h * n.d, &mut dvb, n.d);
                        gemm(
                            Into::Add,
                            cols,
                            n.d,
                            m,
                            transposed(da, cols),
                            &q[row * n.d..],
                            n.h * n.d,
                            &mut dkb,
                            n.d,
                        );
                        // SAFETY: query rows of heads of kv head g are this task's alone.
                        let dq = unsafe {
                            std::slice::from_raw_parts_mut(qp.get().add(row * n.d), (m - 1) * n.h * n.d + n.d)
                        };
                        gemm(Into::Add, m, n.d, cols, rows(da, cols), &block.k, n.d, dq, n.h * n.d);
                    }
                }
                if pass == 1 {
                    for j in 0..cols {
                        let at = ((j0 + j) * n.g + g) * n.d;
                        // SAFETY: keys of kv head g are this task's alone.
                        unsafe {
                            std::slice::from_raw_parts_mut(kp.get().add(at), n.d)
                                .copy_from_slice(&dkb[j * n.d..(j + 1) * n.d]);
                            std::slice::from_raw_parts_mut(vp.get().add(at), n.d)
                                .copy_from_slice(&dvb[j * n.d..(j + 1) * n.d]);
                        }
                    }
                }
            }
        }
    });
}
