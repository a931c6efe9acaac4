//! `mma.sync.aligned.*.row.col.f32.*.*.f32`.
//!
//! Fragment layouts are those of the PTX ISA, "Matrix Fragments for mma.m16n8k..."; with `g = lane / 4` and `t = lane % 4`:
//! C and D hold rows `g` (registers 0, 1) and `g + 8` (2, 3), columns `2t` and `2t + 1`.

use super::NAN_F32;
use super::round::{odd, two_sum};
use crate::Mma;

/// Shape and input type of an mma with f32 accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MmaKind {
    /// `.m16n8k16`, f16.
    M16N8K16F16,
    /// `.m16n8k16`, bf16.
    M16N8K16Bf16,
    /// `.m16n8k8`, f16.
    M16N8K8F16,
    /// `.m16n8k8`, bf16.
    M16N8K8Bf16,
    /// `.m16n8k8`, tf32.
    M16N8K8Tf32,
    /// `.m16n8k4`, tf32.
    M16N8K4Tf32,
}

impl MmaKind {
    /// The inner dimension.
    pub fn k(self) -> usize {
        match self {
            MmaKind::M16N8K16F16 | MmaKind::M16N8K16Bf16 => 16,
            MmaKind::M16N8K8F16 | MmaKind::M16N8K8Bf16 | MmaKind::M16N8K8Tf32 => 8,
            MmaKind::M16N8K4Tf32 => 4,
        }
    }
    fn tf32(self) -> bool {
        matches!(self, MmaKind::M16N8K8Tf32 | MmaKind::M16N8K4Tf32)
    }
    /// Registers of A per lane.
    pub fn a_regs(self) -> usize {
        self.b_regs() * 2
    }
    /// Registers of B per lane.
    pub fn b_regs(self) -> usize {
        if self.tf32() { self.k() / 4 } else { self.k() / 8 }
    }
    /// Registers of C and of D per lane.
    pub fn cd_regs(self) -> usize {
        4
    }
    /// Floating-point operations of one instruction.
    pub fn flops(self) -> u64 {
        2 * 16 * 8 * self.k() as u64
    }
    /// Explicit mantissa bits of the inputs.
    fn mantissa(self) -> i32 {
        match self {
            MmaKind::M16N8K16Bf16 | MmaKind::M16N8K8Bf16 => 7,
            _ => 10,
        }
    }
}

#[inline(always)]
fn f16_value(bits: u32) -> f32 {
    let magnitude = (bits & 0x7fff) << 13;
    let x = if bits & 0x7c00 == 0x7c00 {
        magnitude | 0x7f80_0000
    } else {
        // The exponent moves from bias 15 to 127 by an exact product; subnormals come out normal.
        (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits()
    };
    f32::from_bits(x | (bits & 0x8000) << 16)
}

/// The operands as matrices.
struct Tile {
    k: usize,
    a: [[f32; 16]; 16],
    b: [[f32; 8]; 16],
    c: [[f32; 8]; 16],
}

impl Tile {
    fn load(kind: MmaKind, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]]) -> Tile {
        let k = kind.k();
        match kind {
            MmaKind::M16N8K16F16 | MmaKind::M16N8K8F16 => Tile::gather::<2>(k, a, b, c, f16_value),
            MmaKind::M16N8K16Bf16 | MmaKind::M16N8K8Bf16 => {
                Tile::gather::<2>(k, a, b, c, |bits| f32::from_bits(bits << 16))
            }
            // The low 13 bits are ignored.
            _ => Tile::gather::<1>(k, a, b, c, |bits| f32::from_bits(bits & !0x1fff)),
        }
    }

    /// `PACK`: elements per register of A and B.
    #[inline(always)]
    fn gather<const PACK: usize>(
        k: usize,
        a: &[[u32; 32]],
        b: &[[u32; 32]],
        c: &[[u32; 32]],
        value: impl Fn(u32) -> f32,
    ) -> Tile {
        let mut t = Tile { k, a: [[0.0; 16]; 16], b: [[0.0; 8]; 16], c: [[0.0; 8]; 16] };
        let half = |bits: u32, h: usize| if PACK == 1 { bits } else { bits >> (16 * h) & 0xffff };
        for (r, regs) in a.iter().enumerate() {
            for g in 0..8 {
                for h in 0..PACK {
                    for i in 0..4 {
                        let col = PACK * (i + 4 * (r >> 1)) + h;
                        t.a[g + 8 * (r & 1)][col & 15] = value(half(regs[4 * g + i], h));
                    }
                }
            }
        }
        for (r, regs) in b.iter().enumerate() {
            for i in 0..4 {
                for h in 0..PACK {
                    let row = PACK * (i + 4 * r) + h;
                    for g in 0..8 {
                        t.b[row & 15][g] = value(half(regs[4 * g + i], h));
                    }
                }
            }
        }
        for (r, regs) in c.iter().enumerate() {
            for g in 0..8 {
                for i in 0..4 {
                    t.c[(g + 8 * (r >> 1)) & 15][2 * i + (r & 1)] = f32::from_bits(regs[4 * g + i]);
                }
            }
        }
        t
    }

    fn finite(&self) -> bool {
        let ok =
            |rows: &[f32]| rows.iter().fold(true, |ok, x| ok & (x.to_bits() & 0x7f80_0000 != 0x7f80_0000));
        ok(self.a.as_flattened()) && ok(self.b.as_flattened()) && ok(self.c.as_flattened())
    }

    fn without_specials(&self) -> Tile {
        let zero = |x: f32| if x.is_finite() { x } else { 0.0 };
        Tile {
            k: self.k,
            a: self.a.map(|r| r.map(zero)),
            b: self.b.map(|r| r.map(zero)),
            c: self.c.map(|r| r.map(zero)),
        }
    }

    /// The element as IEEE says where an operand is not finite; None where all are.
    fn special(&self, i: usize, j: usize) -> Option<f32> {
        let all = (0..self.k).all(|k| self.a[i][k].is_finite() && self.b[k][j].is_finite());
        if all && self.c[i][j].is_finite() {
            return None;
        }
        Some((0..self.k).fold(self.c[i][j] as f64, |s, k| s + self.a[i][k] as f64 * self.b[k][j] as f64)
            as f32)
    }
}

/// `D = A * B + C` on fragments: one array per register, 32 lanes each. C and D are f32 bits.
///
/// Operands that are not finite follow IEEE 754 in every numerics; NaN results are 0x7fffffff. A truncated sum that leaves the range of
/// f32 is infinite.
pub fn mma_f32(
    kind: MmaKind,
    numerics: Mma,
    a: &[[u32; 32]],
    b: &[[u32; 32]],
    c: &[[u32; 32]],
) -> Vec<[u32; 32]> {
    let t = Tile::load(kind, a, b, c);
    let finite = t.finite();
    let mut d = if finite || numerics == Mma::Sequential {
        product(kind, numerics, &t)
    } else {
        // Without the values that are not finite, then those results over it.
        product(kind, numerics, &t.without_specials())
    };
    if !finite && numerics != Mma::Sequential {
        for i in 0..16 {
            for j in 0..8 {
                d[i][j] = t.special(i, j).unwrap_or(d[i][j]);
            }
        }
    }
    let bits = |x: f32| if x.is_nan() { NAN_F32 } else { x.to_bits() };
    (0..4)
        .map(|r| std::array::from_fn(|lane| bits(d[lane / 4 + 8 * (r >> 1)][2 * (lane % 4) + (r & 1)])))
        .collect()
}

fn product(kind: MmaKind, numerics: Mma, t: &Tile) -> [[f32; 8]; 16] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: avx2 was just found.
        return unsafe { product_avx2(kind, numerics, t) };
    }
    product_by_k(kind, numerics, t)
}

/// The same code and, since nothing is contracted, the same bits, in wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn product_avx2(kind: MmaKind, numerics: Mma, t: &Tile) -> [[f32; 8]; 16] {
    product_by_k(kind, numerics, t)
}

#[inline(always)]
fn product_by_k(kind: MmaKind, numerics: Mma, t: &Tile) -> [[f32; 8]; 16] {
    match (numerics, kind.k()) {
        (Mma::Sequential, 16) => sequential::<16>(t),
        (Mma::Sequential, 8) => sequential::<8>(t),
        (Mma::Sequential, _) => sequential::<4>(t),
        (Mma::Exact, 16) => exact::<16>(kind, t),
        (Mma::Exact, 8) => exact::<8>(kind, t),
        (Mma::Exact, _) => exact::<4>(kind, t),
        (Mma::Truncate, 16) => truncate::<16, 8>(t),
        (Mma::Truncate, 8) if !kind.tf32() => truncate::<8, 8>(t),
        (Mma::Truncate, 8) => truncate::<8, 4>(t),
        (Mma::Truncate, _) => truncate::<4, 4>(t),
    }
}

/// Each product rounded to f32 (exact but for underflow), added in f32, k ascending.
#[inline(always)]
fn sequential<const K: usize>(t: &Tile) -> [[f32; 8]; 16] {
    let mut d = t.c;
    for i in 0..16 {
        let mut acc = d[i];
        for k in 0..K {
            for j in 0..8 {
                acc[j] += t.a[i][k] * t.b[k][j];
            }
        }
        d[i] = acc;
    }
    d
}

/// Largest exponent and lowest bit's exponent of the non-zero values; None when all are zero.
fn window(values: &[f32], mantissa: i32) -> Option<(i32, i32)> {
    let (mut hi, mut lo) = (0u32, u32::MAX);
    for x in values {
        let m = x.to_bits() & 0x7fff_ffff;
        hi = hi.max(m);
        lo = lo.min(m.wrapping_sub(1)); // zero wraps to the top
    }
    if hi == 0 {
        return None;
    }
    // The smallest's exponent; of subnormals nothing but the last bit's is known.
    let lo = lo + 1;
    let lo = if lo < 0x0080_0000 { -149 } else { (lo >> 23) as i32 - 127 - mantissa };
    Some(((hi >> 23).max(1) as i32 - 127, lo))
}

#[inline(always)]
fn exact<const K: usize>(kind: MmaKind, t: &Tile) -> [[f32; 8]; 16] {
    let product =
        match (window(t.a.as_flattened(), kind.mantissa()), window(t.b.as_flattened(), kind.mantissa())) {
            (Some(a), Some(b)) => Some((a.0 + b.0 + 1, a.1 + b.1)),
            _ => None,
        };
    let spread = match (product, window(t.c.as_flattened(), 23)) {
        (Some(p), Some(c)) => p.0.max(c.0) - p.1.min(c.1),
        (Some(w), None) | (None, Some(w)) => w.0 - w.1,
        (None, None) => 0,
    };
    // 17 terms below 2^(hi + 1), all multiples of 2^lo: f64 sums them without any rounding.
    let fits = spread + 1 + 5 <= 53;
    if fits { plain::<K>(t) } else { compensated(t) }
}

/// Sums in f64, which the caller knows to be exact.
#[inline(always)]
fn plain<const K: usize>(t: &Tile) -> [[f32; 8]; 16] {
    let b: [[f64; 8]; K] = std::array::from_fn(|k| t.b[k].map(f64::from));
    let mut d = t.c;
    for i in 0..16 {
        let mut sum = d[i].map(f64::from);
        for k in 0..K {
            for j in 0..8 {
                sum[j] += t.a[i][k] as f64 * b[k][j];
            }
        }
        d[i] = sum.map(|x| x as f32);
    }
    d
}

/// Sums in f64 with a watch on their errors. (Not inlined: with avx2, LLVM 22 crashes on this loop.)
#[inline(never)]
fn compensated(t: &Tile) -> [[f32; 8]; 16] {
    let mut d = t.c;
    for i in 0..16 {
        let mut sum = d[i].map(f64::from);
        let mut err = [0.0f64; 8];
        for k in 0..t.k {
            for j in 0..8 {
                let (s, e) = two_sum(sum[j], t.a[i][k] as f64 * t.b[k][j] as f64);
                sum[j] = s;
                err[j] += e.abs();
            }
        }
        for j in 0..8 {
            d[i][j] = if err[j] == 0.0 { sum[j] as f32 } else { expansion(t, i, j) };
        }
    }
    d
}

/// One element by an error-free expansion (Shewchuk's grow-expansion) and one rounding.
fn expansion(t: &Tile, i: usize, j: usize) -> f32 {
    let mut parts = [0.0f64; 17];
    parts[0] = t.c[i][j] as f64;
    for k in 0..t.k {
        let mut q = t.a[i][k] as f64 * t.b[k][j] as f64;
        for p in &mut parts[..=k] {
            (q, *p) = two_sum(q, *p);
        }
        parts[k + 1] = q;
    }
    let mut s = 0.0;
    for &p in parts.iter().rev() {
        let (sum, e) = two_sum(s, p);
        s = sum;
        if e != 0.0 {
            return odd(s, e) as f32;
        }
    }
    s as f32
}

/// Bits kept below the leading one of the largest term: those of f32 and two more.
const KEPT: i32 = 25;

/// The exponent of an operand; far below all others for zero. Subnormals have the smallest exponent, as hardware keeps them.
#[inline(always)]
fn exponent(x: f32) -> i32 {
    let field = (x.to_bits() >> 23 & 0xff) as i32;
    if x == 0.0 { -1000 } else { field.max(1) - 127 }
}

/// The sum in groups of eight products, four of tf32, each with the accumulator before it: aligned to the largest exponent, cut off
/// below [`KEPT`] bits, summed, cut off to f32 (A100; Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021).
#[inline(always)]
fn truncate<const K: usize, const GROUP: usize>(t: &Tile) -> [[f32; 8]; 16] {
    let eb: [[i32; 8]; K] = std::array::from_fn(|k| t.b[k].map(exponent));
    let b: [[f64; 8]; K] = std::array::from_fn(|k| t.b[k].map(f64::from));
    let mut d = t.c;
    for i in 0..16 {
        let ea = t.a[i].map(exponent);
        for first in (0..K).step_by(GROUP) {
            let mut top: [i32; 8] = d[i].map(|c| exponent(c).max(-300));
            for k in first..first + GROUP {
                for j in 0..8 {
                    top[j] = top[j].max(ea[k] + eb[k][j]);
                }
            }
            let scale = top.map(|e| power(KEPT - e));
            // Integers below 2^31, so exact; an accumulator that has overflowed stays infinite.
            let mut sum: [f64; 8] = std::array::from_fn(|j| (d[i][j] as f64 * scale[j]).trunc());
            for k in first..first + GROUP {
                let x = t.a[i][k] as f64;
                for j in 0..8 {
                    sum[j] += (x * b[k][j] * scale[j]).trunc();
                }
            }
            for j in 0..8 {
                d[i][j] = toward_zero(sum[j] * power(top[j] - KEPT));
            }
        }
    }
    d
}

#[inline(always)]
fn power(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

#[inline(always)]
fn toward_zero(x: f64) -> f32 {
    if x.abs() < f32::MIN_POSITIVE as f64 {
        let units = (x.abs() * power(149)) as u32;
        return f32::from_bits(units | u32::from(x < 0.0) << 31);
    }
    f64::from_bits(x.to_bits() & !((1 << 29) - 1)) as f32
}

#[cfg(test)]
mod tests;
