//! The product: tiles of a few rows of x by one or two vectors of columns, over panels in parallel.

use super::activation::Rows;
use super::isa::{Isa, Portable};
use super::{BLOCK, Blocks, COLS, Quant};
use crate::ops::linear::Into;
use crate::ops::linear::cpu::Sink;
use crate::par::{self, SendPtr};
#[cfg(target_arch = "x86_64")]
use crate::simd;

/// Bytes of quantised x per task: half of a small L2, the other half is for a panel of weights.
const X_BYTES: usize = 1 << 18;

/// One row of decode reads this many panels at once, as many streams of memory, each this many bytes ahead: NOTES.md has
/// what that is worth.
const STREAMS: usize = 4;
const AHEAD: usize = 1024;

/// The bodies there are.
#[derive(Clone, Copy, PartialEq)]
enum Body {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl Body {
    fn offset8(self) -> i32 {
        match self {
            Body::Portable => Portable::OFFSET8,
            #[cfg(target_arch = "x86_64")]
            Body::Avx2 => super::isa::Avx2::OFFSET8,
            #[cfg(target_arch = "x86_64")]
            Body::Vnni => super::isa::Vnni::OFFSET8,
        }
    }
}

fn body() -> Body {
    #[cfg(target_arch = "x86_64")]
    {
        if simd::vnni() {
            return Body::Vnni;
        }
        if simd::level() >= simd::Level::Avx2 {
            return Body::Avx2;
        }
    }
    Body::Portable
}

pub(in crate::ops::linear) fn forward(
    x: &[f32], m: usize, w: &Blocks, n: usize, bias: Option<&[f32]>, into: Into, y: &mut [f32],
) {
    if m == 0 || n == 0 {
        return;
    }
    let (k, body) = (w.blocks * BLOCK, body());
    let offset = match w.quant {
        Quant::Q8_0 => body.offset8(),
        Quant::Q4_0 => 8,
        Quant::Q4_1 => 0,
    };
    let x = Rows::new(x, m, k, offset);
    let panels = n.div_ceil(COLS);
    // Enough tasks to balance, each wide enough to reuse its rows of x.
    let width = panels.div_ceil(4 * par::threads()).next_multiple_of(2).min(64);
    let rows = (X_BYTES / k.max(1) / 8 * 8).clamp(16, 256);
    let (across, down) = (panels.div_ceil(width), m.div_ceil(rows));
    let out = SendPtr(y.as_mut_ptr());
    par::for_each(across * down, |task| {
        let (p0, r0) = (task % across * width, task / across * rows);
        let (p1, r1) = ((p0 + width).min(panels), (r0 + rows).min(m));
        let cols = (p0 * COLS, (p1 * COLS).min(n));
        let sink = Sink { y: out, first: 0, n, rows: (r0, r1), cols, bias, add: into == Into::Add };
        match body {
            // SAFETY: plain Rust.
            Body::Portable => unsafe { by_format::<Portable>(&x, w, p0, p1, &sink) },
            // SAFETY: the instruction set was detected.
            #[cfg(target_arch = "x86_64")]
            Body::Avx2 => unsafe { avx2(&x, w, p0, p1, &sink) },
            // SAFETY: the instruction set was detected.
            #[cfg(target_arch = "x86_64")]
            Body::Vnni => unsafe { vnni(&x, w, p0, p1, &sink) },
        }
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2(x: &Rows, w: &Blocks, p0: usize, p1: usize, sink: &Sink) {
    // SAFETY: this function's features are those of the set.
    unsafe { by_format::<super::isa::Avx2>(x, w, p0, p1, sink) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn vnni(x: &Rows, w: &Blocks, p0: usize, p1: usize, sink: &Sink) {
    // SAFETY: this function's features are those of the set.
    unsafe { by_format::<super::isa::Vnni>(x, w, p0, p1, sink) }
}

#[inline(always)]
unsafe fn by_format<I: Isa>(x: &Rows, w: &Blocks, p0: usize, p1: usize, sink: &Sink) {
    // SAFETY: the caller has the instruction set.
    unsafe {
        match w.quant {
            Quant::Q8_0 => panels::<I, false, false>(x, w, p0, p1, sink, I::OFFSET8 != 0),
            Quant::Q4_0 => panels::<I, true, false>(x, w, p0, p1, sink, true),
            Quant::Q4_1 => panels::<I, true, true>(x, w, p0, p1, sink, false),
        }
    }
}

/// Panels p0..p1 by the rows of the sink. FOUR: nibbles; MIN: with minima; `minus`: the sums are too high.
#[inline(always)]
unsafe fn panels<I: Isa, const FOUR: bool, const MIN: bool>(
    x: &Rows, w: &Blocks, p0: usize, p1: usize, sink: &Sink, minus: bool,
) {
    let (steps, halves) = (if FOUR { 4 } else { 8 }, if MIN { 2 } else { 1 });
    assert!(p1 * w.blocks * steps <= w.lines.len() && p1 * w.blocks * halves * COLS <= w.scales.len());
    assert!(sink.rows.1 * x.k <= x.q.len() && x.k == w.blocks * BLOCK);
    let most = if sink.rows.1 - sink.rows.0 == 1 { STREAMS } else { 1 };
    let mut p = p0;
    while p < p1 {
        let wide = match (p1 - p).min(most) {
            3 => 2,
            w => w,
        };
        let lines = w.lines[p * w.blocks * steps..].as_ptr() as *const u8;
        let scales = w.scales[p * w.blocks * halves * COLS..].as_ptr();
        let tile = Tile { x, lines, scales, blocks: w.blocks, column: p * COLS, sink, minus };
        let mut r = sink.rows.0;
        while r < sink.rows.1 {
            // A row's sums are the same in every tile: integers are exact, and blocks are added in one order.
            let left = sink.rows.1 - r;
            // SAFETY: rows r.. of x and the panels' lines and scales are there by the asserts; the instruction set is.
            r += unsafe {
                match (I::LANES, left, wide) {
                    (8, _, 4) => tile.whole::<I, 1, 8, FOUR, MIN>(r),
                    (8, _, 2) => tile.whole::<I, 1, 4, FOUR, MIN>(r),
                    (_, _, 4) => tile.whole::<I, 1, 4, FOUR, MIN>(r),
                    (_, _, 2) => tile.whole::<I, 1, 2, FOUR, MIN>(r),
                    // 32 registers hold 8 rows.
                    (16, 8.., _) => tile.whole::<I, 8, 1, FOUR, MIN>(r),
                    (_, 4.., _) => tile.whole::<I, 4, 1, FOUR, MIN>(r),
                    (8, 2.., _) => tile.whole::<I, 2, 2, FOUR, MIN>(r),
                    (8, ..) => tile.whole::<I, 1, 2, FOUR, MIN>(r),
                    (_, 2.., _) => tile.whole::<I, 2, 1, FOUR, MIN>(r),
                    _ => tile.whole::<I, 1, 1, FOUR, MIN>(r),
                }
            };
        }
        p += wide;
    }
}

/// One panel, or several that follow each other, and where its products go.
struct Tile<'a> {
    x: &'a Rows,
    lines: *const u8,
    scales: *const u16,
    blocks: usize,
    column: usize,
    sink: &'a Sink<'a>,
    minus: bool,
}

impl Tile<'_> {
    /// R rows from r on by the columns of the panels, V vectors at a time; returns R.
    #[inline(always)]
    unsafe fn whole<I: Isa, const R: usize, const V: usize, const FOUR: bool, const MIN: bool>(&self, r: usize) -> usize {
        for c in (0..COLS).step_by(V * I::LANES).take_while(|c| self.column + c < self.sink.cols.1) {
            // SAFETY: the caller's.
            let sums = unsafe { self.sums::<I, R, V, FOUR, MIN>(r, c) };
            for (i, sums) in sums.into_iter().enumerate() {
                for (v, sums) in sums.into_iter().enumerate() {
                    let mut out = [0.0; 16];
                    let column = self.column + c + v * I::LANES;
                    if column < self.sink.cols.1 {
                        // SAFETY: at most 16 floats.
                        unsafe { I::store(sums, out.as_mut_ptr()) };
                        self.sink.put(r + i, column, &out[..I::LANES]);
                    }
                }
            }
        }
        R
    }

    /// R rows from r on by V vectors of columns from the panel's column c on; beyond its end in the panels that follow.
    #[inline(always)]
    unsafe fn sums<I: Isa, const R: usize, const V: usize, const FOUR: bool, const MIN: bool>(
        &self, r: usize, c: usize,
    ) -> [[I::Float; V]; R] {
        let (steps, halves) = (if FOUR { 4 } else { 8 }, if MIN { 2 } else { 1 });
        // SAFETY: the caller's: R rows of x, `blocks` blocks of the panel.
        unsafe {
            let mut y = [[I::zero_float(); V]; R];
            let q: [*const i8; R] = std::array::from_fn(|i| self.x.q.as_ptr().add((r + i) * self.x.k));
            let s = self.x.scales.as_ptr().add(r * self.blocks);
            for b in 0..self.blocks {
                let mut sum = [[I::zero(); V]; R];
                for step in 0..steps {
                    let line = self.lines.add((b * steps + step) * 64 + 4 * c);
                    if R == 1 {
                        for panel in 0..(V * I::LANES).div_ceil(COLS) {
                            I::prefetch(line.wrapping_add(panel * self.blocks * steps * 64 + AHEAD));
                        }
                    }
                    for v in 0..V {
                        let (panel, lane) = (v * I::LANES / COLS, v * I::LANES % COLS);
                        let w = I::load(line.add(panel * self.blocks * steps * 64 + 4 * lane));
                        if FOUR {
                            let (low, high) = I::nibbles(w);
                            for i in 0..R {
                                let x = q[i].add(b * BLOCK + 4 * step);
                                sum[i][v] = I::dot4(sum[i][v], low, I::splat(x));
                                sum[i][v] = I::dot4(sum[i][v], high, I::splat(x.add(16)));
                            }
                        } else {
                            for i in 0..R {
                                let x = q[i].add(b * BLOCK + 4 * step);
                                sum[i][v] = I::dot8(sum[i][v], w, I::splat(x));
                            }
                        }
                    }
                }
                let scales = self.scales.add(b * halves * COLS + c);
                for v in 0..V {
                    let (panel, lane) = (v * I::LANES / COLS, v * I::LANES % COLS);
                    let scales = scales.add(panel * self.blocks * halves * COLS + lane);
                    let d = I::scales(scales);
                    for i in 0..R {
                        let s = &*s.add(i * self.blocks + b);
                        let mut sum = if FOUR { I::sum4(sum[i][v]) } else { sum[i][v] };
                        if self.minus {
                            sum = I::minus(sum, s.minus);
                        }
                        y[i][v] = I::scaled(sum, d, s.d, y[i][v]);
                    }
                    if MIN {
                        let min = I::scales(scales.add(COLS));
                        for i in 0..R {
                            y[i][v] = I::axpy(min, (*s.add(i * self.blocks + b)).sum, y[i][v]);
                        }
                    }
                }
            }
            y
        }
    }
}
