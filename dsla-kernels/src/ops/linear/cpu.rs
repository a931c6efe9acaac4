//! The CPU path: panels of 16 outputs in parallel, every output summed by one thread in one order.

use super::pack::{LineBf16, Packed, Panels, Tiles};
use super::Into;
use crate::gemm::{self, gemm_raw, rows};
use crate::par::{self, SendPtr};
use crate::simd::madd;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Level, level};

/// Rows of x per task: 256 rows of bf16 at K = 1536 are 768 KB, inside a core's L2.
const ROWS: usize = 256;

pub fn forward(x: &[f32], m: usize, w: &Packed, bias: Option<&[f32]>, into: Into, y: &mut [f32]) {
    let (n, k) = (w.n(), w.k());
    if m == 0 || n == 0 {
        return;
    }
    if let Panels::Quant(blocks) = &w.data {
        return super::quant::cpu::forward(x, m, blocks, n, bias, into, y);
    }
    // An f16 weight is held in f32, which holds its products exactly: only x is left to round.
    let rounded: Vec<f32>;
    let x = match &w.data {
        Panels::F16(_) => {
            rounded = x.iter().map(|&v| crate::f16::from_f32(v).to_f32()).collect();
            &rounded
        }
        _ => x,
    };
    let panels = n.div_ceil(16);
    // Enough tasks to balance, each wide enough to reuse its rows of x.
    let width = (panels.div_ceil(4 * par::threads())).next_multiple_of(4).clamp(4, 64);
    let (across, down) = (panels.div_ceil(width), m.div_ceil(ROWS));
    let tiles = matches!(w.data, Panels::BF16(_)).then(|| Tiles::new(x, m, k));
    let out = SendPtr(y.as_mut_ptr());
    par::for_each(across * down, |task| {
        let (p0, r0) = (task % across * width, task / across * ROWS);
        let (p1, r1) = ((p0 + width).min(panels), (r0 + ROWS).min(m));
        let (c0, c1) = (p0 * 16, (p1 * 16).min(n));
        let sink = Sink { y: out, n, rows: (r0, r1), cols: (c0, c1), bias, add: into == Into::Add };
        match (&w.data, &tiles) {
            (Panels::F32(lines) | Panels::F16(lines), _) => f32_block(x, k, lines[p0 * k..].as_ptr() as *const f32, &sink),
            (Panels::BF16(lines), Some(t)) => bf16_block(t, lines, p0, p1, &sink),
            (Panels::BF16(_), None) => unreachable!("tiles are made for every bf16 weight"),
            (Panels::Quant(_), _) => unreachable!("returned above"),
            (Panels::Cuda(_), _) => unreachable!("dispatched by device"),
        }
    });
}

/// The block of y that a task owns: rows.0..rows.1 by cols.0..cols.1, disjoint from every other task's.
pub(super) struct Sink<'a> {
    pub y: SendPtr<f32>,
    pub n: usize,
    pub rows: (usize, usize),
    pub cols: (usize, usize),
    pub bias: Option<&'a [f32]>,
    pub add: bool,
}

impl Sink<'_> {
    /// Store `len` sums for row r from column c on, with bias and residual. Columns past the edge are dropped.
    #[inline(always)]
    pub fn put(&self, r: usize, c: usize, sums: &[f32]) {
        let len = sums.len().min(self.cols.1 - c);
        debug_assert!(r < self.rows.1 && c >= self.cols.0);
        // SAFETY: the block is inside y and owned by this task.
        let out = unsafe { std::slice::from_raw_parts_mut(self.y.get().add(r * self.n + c), len) };
        let sums = &sums[..len];
        match (self.bias, self.add) {
            (None, false) => out.copy_from_slice(sums),
            (None, true) => out.iter_mut().zip(sums).for_each(|(o, s)| *o += s),
            (Some(b), false) => out.iter_mut().zip(sums).zip(&b[c..]).for_each(|((o, s), b)| *o = s + b),
            (Some(b), true) => out.iter_mut().zip(sums).zip(&b[c..]).for_each(|((o, s), b)| *o += s + b),
        }
    }
}

fn f32_block(x: &[f32], k: usize, panels: *const f32, sink: &Sink) {
    let ((r0, r1), (c0, c1)) = (sink.rows, sink.cols);
    let (m, cols) = (r1 - r0, c1 - c0);
    let into = if sink.add { gemm::Into::Add } else { gemm::Into::Store };
    // SAFETY: x holds rows r0..r1 of k; panels holds k lines of 16 per 16 columns; the block of y is this task's.
    unsafe {
        let y = sink.y.get().add(r0 * sink.n + c0);
        gemm_raw(into, m, cols, k, rows(&x[r0 * k..r1 * k], k), panels, 16, k * 16, y, sink.n);
        if let Some(b) = sink.bias {
            for r in 0..m {
                let row = std::slice::from_raw_parts_mut(y.add(r * sink.n), cols);
                row.iter_mut().zip(&b[c0..c1]).for_each(|(y, b)| *y += b);
            }
        }
    }
}

fn bf16_block(t: &Tiles, lines: &[LineBf16], p0: usize, p1: usize, sink: &Sink) {
    #[cfg(target_arch = "x86_64")]
    {
        if level() >= Level::Amx {
            return super::x86::amx_block(t, lines, p0, p1, sink);
        }
        if level() >= Level::Avx512Bf16 {
            return super::x86::bf16_block(t, lines, p0, p1, sink);
        }
    }
    widen_block(t, lines, p0, p1, sink);
}

crate::multiversion! {
    /// bf16 without bf16 instructions: widen both operands to f32.
    fn widen_block<const FMA: bool>(t: &Tiles, lines: &[LineBf16], p0: usize, p1: usize, sink: &Sink) {
        let half_k = t.k_tiles * 16;
        for p in p0..p1 {
            let panel = &lines[p * half_k..(p + 1) * half_k];
            let mut r = sink.rows.0;
            while r < sink.rows.1 {
                let many = (sink.rows.1 - r).min(4);
                let mut acc = [[0.0f32; 16]; 4];
                for (i, line) in panel.iter().enumerate() {
                    for q in 0..many {
                        let row = r + q;
                        let a = &t.lines[(row / 16 * t.k_tiles + i / 16) * 16 + row % 16].0;
                        let (a0, a1) = (widen(a[i % 16 * 2]), widen(a[i % 16 * 2 + 1]));
                        for l in 0..16 {
                            let s = madd::<FMA>(widen(line.0[2 * l]), a0, acc[q][l]);
                            acc[q][l] = madd::<FMA>(widen(line.0[2 * l + 1]), a1, s);
                        }
                    }
                }
                for q in 0..many {
                    sink.put(r + q, p * 16, &acc[q]);
                }
                r += many;
            }
        }
    }
}

#[inline(always)]
fn widen(b: u16) -> f32 {
    f32::from_bits((b as u32) << 16)
}

pub fn backward_weight(x: &[f32], dy: &[f32], m: usize, n: usize, k: usize, dw: &mut [f32]) {
    const N: usize = 24;
    if m == 0 {
        return;
    }
    par::for_each_chunk(dw, N * k, |i, dw| {
        let cols = dw.len() / k;
        // dw[j, :] += sum_t dy[t, j] x[t, :]
        gemm::gemm(gemm::Into::Add, cols, k, m, gemm::transposed(&dy[i * N..], n), x, k, dw, k);
    });
}
