//! The CPU path: panels of 16 outputs in parallel, every output summed by one thread in one order.

use super::pack::{LineBf16, LineF32, Packed, Panels};
use super::Into;
use crate::ops::swiglu::cpu as swiglu;
use crate::gemm::{self, PairProducts, Pairs, gemm_raw, rows};
use crate::par::{self, SendPtr};
use crate::simd::lanes::{Lanes, lanes, prefetch};
use crate::simd::multiplies_bf16;
use crate::{bf16, multiversion};
use crate::host::{Host, Kept};
use crate::vec::narrow_factors;
use std::mem::MaybeUninit;
use std::ops::Deref;

/// L2 that a task's rows of bf16 may take, bytes: half of what machines have that multiply bf16.
const PAIRS_L2: usize = 1 << 20;

/// Rows of x per task, of m rows of `ld` bf16: as many as fit, and all alike; every thread has its own where they are enough to
/// go over all weights for, for its next op then finds them in its cache.
fn pair_rows(m: usize, ld: usize) -> usize {
    let most = (PAIRS_L2 / (2 * ld.max(1))).max(STRIP);
    let blocks = m.div_ceil(most).max(par::threads().min(m / 128)).max(1);
    m.div_ceil(blocks).next_multiple_of(STRIP)
}

/// Rows of x that are worth widening a panel of bf16 for.
const MANY: usize = 24;
/// L2 that a task's rows of x may take, bytes: more than it has is no loss, they come in order.
const L2: usize = 512 << 10;

/// x of a call.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    F32(&'a [f32]),
    /// Of a weight that [`reads_bf16`].
    BF16(&'a [bf16]),
}

/// Whether x of bf16 is multiplied as it is.
pub fn reads_bf16(w: &Packed) -> bool {
    matches!(w.data, Panels::BF16(_)) && multiplies_bf16()
}

pub fn forward(x: Input, m: usize, w: &Packed, bias: Option<&[f32]>, into: Into, y: &mut [f32]) {
    if let (Panels::Quant(blocks), Input::F32(x)) = (&w.data, x) {
        return super::quant::cpu::forward(x, m, blocks, w.n(), bias, into, y);
    }
    blocks(x, m, w, bias, into, &[Part { from: 0, to: w.n(), y: SendPtr(y.as_mut_ptr()) }])
}

/// Whether [`forward_parts`] takes parts of so many columns.
pub fn takes_parts(w: &Packed, widths: &[usize]) -> bool {
    !matches!(w.data, Panels::Quant(_)) && widths.iter().all(|n| n.is_multiple_of(16))
}

/// [`forward`], y in parts side by side, each a matrix of its own.
pub fn forward_parts<const P: usize>(x: Input, m: usize, w: &Packed, bias: Option<&[f32]>, parts: [&mut [f32]; P]) {
    let mut from = 0;
    let parts = parts.map(|y| {
        let part = Part { from, to: from + y.len() / m.max(1), y: SendPtr(y.as_mut_ptr()) };
        from = part.to;
        part
    });
    blocks(x, m, w, bias, Into::Store, &parts)
}

/// Columns from..to of the product, which are whole panels but for the last, as a matrix.
struct Part {
    from: usize,
    to: usize,
    y: SendPtr<f32>,
}

/// Parts cover all columns, in order.
fn blocks(x: Input, m: usize, w: &Packed, bias: Option<&[f32]>, into: Into, parts: &[Part]) {
    let (n, k) = (w.n(), w.k());
    if m == 0 || n == 0 {
        return;
    }
    let x = Operand::new(x, m, k, w);
    let rows = match x {
        Operand::Pairs(_, ld) => pair_rows(m, ld),
        // Whole register tiles of 12 and of 6 rows.
        Operand::Rows(..) => (L2 / (4 * k.max(1)) / 12 * 12).clamp(24, 192),
    };
    let block = |(r0, r1): (usize, usize), (p0, p1): (usize, usize), sink: &Sink| match (&w.data, &x) {
        (Panels::F32(lines) | Panels::F16(lines), Operand::Rows(x, ld)) => {
            f32_block(x, *ld, k, lines[p0 * k..].as_ptr() as *const f32, sink)
        }
        (Panels::BF16(lines), Operand::Pairs(x, ld)) => pairs_block(x, *ld, &lines[p0 * ld / 2..p1 * ld / 2], sink),
        (Panels::BF16(lines), Operand::Rows(x, ld)) if r1 - r0 >= MANY => {
            let half_k = ld / 2;
            for p in p0..p1 {
                let sink = Sink { cols: (p * 16, (p * 16 + 16).min(sink.cols.1)), ..*sink };
                many_rows(x, *ld, &lines[p * half_k..(p + 1) * half_k], &sink);
            }
        }
        (Panels::BF16(lines), Operand::Rows(x, ld)) => {
            let half_k = ld / 2;
            assert!(r1 * ld <= x.len() && p1 * half_k <= lines.len());
            // SAFETY: rows r0..r1 of x and panels p0..p1 are there, by the assert; the block of y is this task's.
            unsafe { widen_block(x.as_ptr(), lines.as_ptr(), half_k, p0, p1, sink) }
        }
        _ => unreachable!("the operand is made for the weight; devices are dispatched before"),
    };
    tasks(m, n.div_ceil(16), rows, |rows, (p0, p1)| {
        for part in parts {
            let cols = ((p0 * 16).max(part.from), (p1 * 16).min(part.to));
            if cols.0 < cols.1 {
                let sink = Sink { y: SendPtr(part.y.get()), first: part.from, n: part.to - part.from, rows, cols, bias, add: into == Into::Add };
                block(rows, (cols.0 / 16, cols.1.div_ceil(16)), &sink);
            }
        }
    });
}

/// Rows of a strip: with a panel of gates and one of ups, 36 KB at K = 576, its sums stay in the L1.
const STRIP: usize = 32;

/// y [M, F] = silu(x G^T) * (x U^T) for w that [`reads_bf16`], F a multiple of 16: sums become outputs as soon as they are there,
/// so that nothing twice as wide goes through memory.
pub fn forward_swiglu(x: Input, m: usize, w: &Packed, y: &mut [bf16]) {
    let (f, Panels::BF16(lines)) = (w.n() / 2, &w.data) else { unreachable!("the caller has looked") };
    let Operand::Pairs(x, ld) = Operand::new(x, m, w.k(), w) else { unreachable!("as above") };
    if m == 0 || f == 0 {
        return;
    }
    let (panels, size) = (f / 16, ld / 2);
    assert!(f.is_multiple_of(16) && x.len() == m * ld && lines.len() == 2 * panels * size && y.len() == m * f);
    let y = SendPtr(y.as_mut_ptr());
    tasks(m, panels, pair_rows(m, ld), |(r0, r1), (p0, p1)| {
        let (mut by, mut both) = (PairProducts::new(), Host::<f32>::scratch(STRIP * 32));
        for p in p0..p1 {
            for r in (r0..r1).step_by(STRIP) {
                let rows = STRIP.min(r1 - r);
                let (a, b) = (x[r * ld..].as_ptr() as *const u16, lines[p * size..].as_ptr() as *const u16);
                // Two panels: a gate's, and its up's.
                let (panel, c) = (panels * size * 32, both.as_mut_ptr());
                let product = Pairs { k: size, a, lda: ld, b, ldb: 32, panel, c, ldc: 32, add: false, next: 32 * size + (r - r0) / STRIP % 8 * 4 * size };
                // SAFETY: rows r.. of x, panels p of both halves, and `both` are as large as that.
                unsafe { by.product(product, rows, 32) }
                // SAFETY: sixteen columns of these rows of y are this task's alone.
                unsafe { swiglu::gated(&both[..rows * 32], y.get().add(r * f + p * 16), f) }
            }
        }
    });
}

/// Run f((first row, last), (first panel, last)) over blocks of y, in parallel: pairs of panels, dealt out evenly; enough tasks to
/// balance, each wide enough to reuse its rows of x.
fn tasks(m: usize, panels: usize, rows: usize, f: impl Fn((usize, usize), (usize, usize)) + Sync) {
    let (pairs, down) = (panels.div_ceil(2), m.div_ceil(rows));
    let across = pairs.min((4 * par::threads()).div_ceil(down).max(pairs.div_ceil(32)));
    par::for_each(across * down, |task| {
        let (i, r0) = (task % across, task / across * rows);
        f((r0, (r0 + rows).min(m)), (i * pairs / across * 2, ((i + 1) * pairs / across * 2).min(panels)));
    });
}

/// Rows of x, or a copy of them.
enum Rounded<'a, T: Kept> {
    AsIs(&'a [T]),
    New(Host<T>),
}

impl<T: Kept> Deref for Rounded<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Rounded::AsIs(x) => x,
            Rounded::New(x) => x,
        }
    }
}

/// x as the kernels of a weight read it.
enum Operand<'a> {
    /// Rows of f32 (rounded as the weight's dtype asks), this many elements apart.
    Rows(Rounded<'a, f32>, usize),
    /// Rows of bf16 for instructions that multiply bf16, this many elements apart.
    Pairs(Rounded<'a, bf16>, usize),
}

impl Operand<'_> {
    fn new<'a>(x: Input<'a>, m: usize, k: usize, w: &Packed) -> Operand<'a> {
        let x = match x {
            Input::F32(x) => x,
            Input::BF16(x) if k.is_multiple_of(32) => return Operand::Pairs(Rounded::AsIs(x), k),
            Input::BF16(x) => {
                let (rows, ld) = rounded(x, m, k, <[bf16]>::copy_from_slice);
                return Operand::Pairs(Rounded::New(rows), ld);
            }
        };
        match &w.data {
            // An f16 weight is held in f32, which holds its products exactly: only x is left to round.
            Panels::F16(_) => {
                let mut rows = Host::scratch(x.len());
                rows.iter_mut().zip(x).for_each(|(o, &v)| *o = crate::f16::from_f32(v).to_f32());
                Operand::Rows(Rounded::New(rows), k)
            }
            Panels::BF16(_) if multiplies_bf16() => {
                let (rows, ld) = rounded(x, m, k, |o, x| narrow_factors(x, o));
                Operand::Pairs(Rounded::New(rows), ld)
            }
            Panels::BF16(_) => {
                let (rows, ld) = rounded(x, m, k, |o, x| round(x, o));
                Operand::Rows(Rounded::New(rows), ld)
            }
            _ => Operand::Rows(Rounded::AsIs(x), k),
        }
    }
}

/// Rows of x, each by `round`, and how far they are apart: K or a little more, zero there, so that whole tiles of 32 can be read.
fn rounded<S: Sync, T: Kept + Send>(x: &[S], m: usize, k: usize, round: impl Fn(&mut [T], &[S]) + Sync) -> (Host<T>, usize) {
    let ld = k.next_multiple_of(32);
    let mut rows = if ld == k { Host::scratch(m * ld) } else { Host::zeros(m * ld) };
    let per = if m >= 64 { 16 * ld } else { m * ld };
    // (With k = 0 there is nothing to round, and nothing to split.)
    par::for_each_chunk(&mut rows, per, |i, rows| {
        let first = i * per / ld.max(1);
        rows.chunks_exact_mut(ld).zip(x[first * k..].chunks_exact(k)).for_each(|(o, x)| round(&mut o[..k], x));
    });
    (rows, ld)
}

multiversion! {
    /// To the nearest bf16, kept in f32; NaN stays NaN.
    fn round<const FMA: bool>(x: &[f32], out: &mut [f32]) {
        let _ = FMA;
        for (o, &v) in out.iter_mut().zip(x) {
            let b = v.to_bits();
            let r = b.wrapping_add(0x7fff + ((b >> 16) & 1)) & 0xffff_0000;
            *o = if v.is_nan() { f32::NAN } else { f32::from_bits(r) };
        }
    }
}

/// The block of y that a task owns: rows.0..rows.1 by cols.0..cols.1, disjoint from every other task's.
pub(super) struct Sink<'a> {
    pub y: SendPtr<f32>,
    /// Column of the product that is the first of y, which has n.
    pub first: usize,
    pub n: usize,
    pub rows: (usize, usize),
    pub cols: (usize, usize),
    pub bias: Option<&'a [f32]>,
    pub add: bool,
}

impl Sink<'_> {
    /// Row r of the block, of which it owns `cols`.
    #[inline(always)]
    fn at(&self, r: usize) -> *mut f32 {
        debug_assert!(r <= self.rows.1);
        // SAFETY: the block is inside y.
        unsafe { self.y.get().add(r * self.n + self.cols.0 - self.first) }
    }

    /// To a block of finished sums.
    fn add_bias(&self) {
        let Some(b) = self.bias else { return };
        let b = &b[self.cols.0..self.cols.1];
        for r in self.rows.0..self.rows.1 {
            // SAFETY: the block is inside y and owned by this task.
            let row = unsafe { std::slice::from_raw_parts_mut(self.at(r), b.len()) };
            row.iter_mut().zip(b).for_each(|(y, b)| *y += b);
        }
    }

    /// Store `len` sums for row r from column c on, with bias and residual. Columns past the edge are dropped.
    #[inline(always)]
    pub fn put(&self, r: usize, c: usize, sums: &[f32]) {
        let len = sums.len().min(self.cols.1 - c);
        debug_assert!(r < self.rows.1 && c >= self.cols.0);
        // SAFETY: the block is inside y and owned by this task.
        let out = unsafe { std::slice::from_raw_parts_mut(self.y.get().add(r * self.n + c - self.first), len) };
        let sums = &sums[..len];
        match (self.bias, self.add) {
            (None, false) => out.copy_from_slice(sums),
            (None, true) => out.iter_mut().zip(sums).for_each(|(o, s)| *o += s),
            (Some(b), false) => out.iter_mut().zip(sums).zip(&b[c..]).for_each(|((o, s), b)| *o = s + b),
            (Some(b), true) => out.iter_mut().zip(sums).zip(&b[c..]).for_each(|((o, s), b)| *o += s + b),
        }
    }
}

/// x: rows of k elements, `ld` apart; panels: k lines of 16 for every 16 columns of the sink.
fn f32_block(x: &[f32], ld: usize, k: usize, panels: *const f32, sink: &Sink) {
    let ((r0, r1), (c0, c1)) = (sink.rows, sink.cols);
    let into = if sink.add { gemm::Into::Add } else { gemm::Into::Store };
    // SAFETY: x holds rows r0..r1 of k; panels holds k lines of 16 per 16 columns; the block of y is this task's.
    unsafe { gemm_raw(into, r1 - r0, c1 - c0, k, rows(&x[r0 * ld..r1 * ld], ld), panels, 16, k * 16, sink.at(r0), sink.n) }
    sink.add_bias();
}

/// x: rows of `ld` bf16; lines: ld / 2 for every 16 columns of the sink.
fn pairs_block(x: &[bf16], ld: usize, lines: &[LineBf16], sink: &Sink) {
    let ((r0, r1), (c0, c1)) = (sink.rows, sink.cols);
    let x = &x[r0 * ld..r1 * ld];
    assert!((c1 - c0).div_ceil(16) * ld / 2 <= lines.len());
    let (a, b, c) = (x.as_ptr() as *const u16, lines.as_ptr() as *const u16, sink.at(r0));
    let p = Pairs { k: ld / 2, a, lda: ld, b, ldb: 32, panel: 16 * ld, c, ldc: sink.n, add: sink.add, next: 32 * ld };
    // SAFETY: x holds rows r0..r1, `lines` whole panels, by the assert; the block of y is this task's.
    unsafe { PairProducts::new().product(p, r1 - r0, c1 - c0) }
    sink.add_bias();
}

/// Columns of x per pass of [`many_rows`] at most: what they need of a panel, 36 KB of f32, is about what L1 holds.
const DEPTH: usize = 576;

/// One panel for many rows, at most [`DEPTH`] columns of x at a time: widened once for all of them. Sums go on from pass to
/// pass, so they are those of [`widen_block`].
fn many_rows(x: &[f32], ld: usize, lines: &[LineBf16], sink: &Sink) {
    let ((r0, r1), (c0, c1)) = (sink.rows, sink.cols);
    let passes = ld.div_ceil(DEPTH).max(1);
    let depth = ld.div_ceil(passes).next_multiple_of(2);
    let mut panel = [const { MaybeUninit::<LineF32>::uninit() }; DEPTH];
    let panel = panel.as_mut_ptr() as *mut f32;
    // What y holds comes last: several passes that are added to it, or a bias with them, are summed elsewhere.
    let elsewhere = sink.add && (passes > 1 || sink.bias.is_some());
    let mut apart = Host::<f32>::scratch(if elsewhere { (r1 - r0) * 16 } else { 0 });
    let (sums, step) = if elsewhere { (apart.as_mut_ptr(), 16) } else { (sink.at(r0), sink.n) };
    for pass in 0..passes {
        let into = match pass {
            0 if sink.add && !elsewhere => gemm::Into::Add,
            0 => gemm::Into::Store,
            _ => gemm::Into::Resume,
        };
        let (first, k) = (pass * depth, depth.min(ld - pass * depth));
        let x = rows(&x[r0 * ld + first..r1 * ld], ld);
        // SAFETY: the panel has room for k lines, which are written first; x holds k columns of rows r0..r1 from here on;
        // `sums` is this task's block of y, or as large.
        unsafe {
            widen_panel(&lines[first / 2..(first + k) / 2], panel);
            gemm_raw(into, r1 - r0, c1 - c0, k, x, panel, 16, 16, sums, step);
        }
    }
    match elsewhere {
        false => sink.add_bias(),
        true => apart.chunks_exact(16).enumerate().for_each(|(r, sums)| sink.put(r0 + r, c0, sums)),
    }
}

lanes! {
    /// Lines of bf16 [16][2] as two lines of f32 each.
    unsafe fn widen_panel<V>(lines: &[LineBf16], out: *mut f32) {
        for (i, line) in lines.iter().enumerate() {
            // SAFETY: a line holds 32 bf16 or 16 f32; the caller has two lines of f32 for each of bf16.
            unsafe {
                let (first, second) = V::widen_pairs(line.0.as_ptr());
                first.store(out.add(32 * i));
                second.store(out.add(32 * i + 16));
            }
        }
    }
}

lanes! {
    /// bf16 without bf16 instructions, fewer than [`MANY`] rows: weights are widened on the way into the registers. x: rows of
    /// 2 half_k elements, rounded to bf16. Every sum runs over k in order, whatever the tile.
    unsafe fn widen_block<V>(x: *const f32, lines: *const LineBf16, half_k: usize, p0: usize, p1: usize, sink: &Sink) {
        let (r0, rows) = (sink.rows.0, sink.rows.1 - sink.rows.0);
        let mut p = p0;
        while p < p1 {
            // One row takes four panels, so that enough sums are in flight.
            let wide = match p1 - p {
                4.. if rows < 4 => 4,
                2.. if rows < 4 || V::WIDE => 2,
                _ => 1,
            };
            // SAFETY: rows r0.. and panels p..p + wide are there; the caller vouches for the rest.
            unsafe {
                let mut sums = [[V::splat(0.0); 4]; MANY];
                let (x, b) = (x.add(r0 * 2 * half_k), lines.add(p * half_k) as *const u16);
                let len = if rows == 1 { half_k.max(1) } else { RUN };
                for i in (0..half_k).step_by(len) {
                    let run = Run { x: x.add(2 * i), b: b.add(i * 32), half_k, len: len.min(half_k - i) };
                    widen_rows(run, wide, &mut sums[..rows]);
                }
                for (r, sums) in sums.iter().take(rows).enumerate() {
                    for (c, sums) in sums.iter().take(wide).enumerate() {
                        let mut row = [0.0f32; 16];
                        sums.store(row.as_mut_ptr());
                        sink.put(r0 + r, (p + c) * 16, &row);
                    }
                }
            }
            p += wide;
        }
    }
}

/// Pairs of columns that all rows go over before the next: 2 KB of a panel, and the first of them asks for the 2 KB after it,
/// so that memory is read all the time and not by the first rows only.
const RUN: usize = 32;

/// A part of a product: rows of x, 2 half_k apart, and panels of half_k lines, from some column on.
#[derive(Clone, Copy)]
struct Run {
    x: *const f32,
    b: *const u16,
    half_k: usize,
    /// Lines.
    len: usize,
}

/// sums += a run of all rows and `wide` panels.
#[inline(always)]
unsafe fn widen_rows<V: Lanes>(run: Run, wide: usize, sums: &mut [[V; 4]]) {
    let (rows, mut r) = (sums.len(), 0);
    while r < rows {
        // SAFETY: rows r.. are there; the caller vouches for the rest.
        unsafe {
            let (at, sums) = (Run { x: run.x.add(r * 2 * run.half_k), ..run }, &mut sums[r..]);
            let first = r == 0 && rows > 1;
            r += match (wide, rows - r) {
                (4, _) => widen_tile::<V, 1, 4>(at, first, sums),
                (2, 8..) if V::WIDE => widen_tile::<V, 8, 2>(at, first, sums),
                (2, 4..) => widen_tile::<V, 4, 2>(at, first, sums),
                (2, _) => widen_tile::<V, 1, 2>(at, first, sums),
                // Eight rows are two tiles of four: six and two would leave too few sums in flight.
                (_, 7 | 8) => widen_tile::<V, 4, 1>(at, first, sums),
                (_, 6..) => widen_tile::<V, 6, 1>(at, first, sums),
                (_, 4..) => widen_tile::<V, 4, 1>(at, first, sums),
                (_, 2..) => widen_tile::<V, 2, 1>(at, first, sums),
                _ => widen_tile::<V, 1, 1>(at, first, sums),
            };
        }
    }
}

/// sums += a run of R rows and P panels; returns R. The first asks for what comes after the run.
#[inline(always)]
unsafe fn widen_tile<V: Lanes, const R: usize, const P: usize>(run: Run, first: bool, sums: &mut [[V; 4]]) -> usize {
    // SAFETY: the caller's: R rows, P panels of `len` lines of 32.
    unsafe {
        let mut acc = [[V::splat(0.0); P]; R];
        for q in 0..R {
            acc[q].copy_from_slice(&sums[q][..P]);
        }
        let ahead = if first { RUN } else { 0 };
        for i in 0..run.len {
            let mut w = [(V::splat(0.0), V::splat(0.0)); P];
            for c in 0..P {
                let line = run.b.add((c * run.half_k + i) * 32);
                // (Four panels are four streams, which the processor follows by itself.)
                if P < 4 {
                    prefetch(line.wrapping_add(ahead * 32));
                }
                w[c] = V::widen_pairs(line);
            }
            for q in 0..R {
                let at = run.x.add(q * 2 * run.half_k + 2 * i);
                let (x0, x1) = (V::splat(*at), V::splat(*at.add(1)));
                for c in 0..P {
                    acc[q][c] = acc[q][c].fma(w[c].0, x0).fma(w[c].1, x1);
                }
            }
        }
        for q in 0..R {
            sums[q][..P].copy_from_slice(&acc[q]);
        }
    }
    R
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
