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
    /// Products that hardware sums at once (A100; Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021).
    fn group(self) -> usize {
        if self.tf32() { 4 } else { 8 }
    }
    /// Explicit mantissa bits of the inputs.
    fn mantissa(self) -> i32 {
        match self {
            MmaKind::M16N8K16Bf16 | MmaKind::M16N8K8Bf16 => 7,
            _ => 10,
        }
    }
    fn value(self, bits: u32) -> f32 {
        match self {
            MmaKind::M16N8K16F16 | MmaKind::M16N8K8F16 => f16_value(bits),
            MmaKind::M16N8K16Bf16 | MmaKind::M16N8K8Bf16 => f32::from_bits(bits << 16),
            // The low 13 bits are ignored.
            _ => f32::from_bits(bits & !0x1fff),
        }
    }
}

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
        let mut t = Tile { k: kind.k(), a: [[0.0; 16]; 16], b: [[0.0; 8]; 16], c: [[0.0; 8]; 16] };
        for lane in 0..32 {
            let (g, i) = (lane / 4, lane % 4);
            for (r, regs) in a.iter().enumerate() {
                let (row, bits) = (g + 8 * (r & 1), regs[lane]);
                if kind.tf32() {
                    t.a[row][i + 4 * (r >> 1)] = kind.value(bits);
                } else {
                    let col = 2 * i + 8 * (r >> 1);
                    t.a[row][col] = kind.value(bits & 0xffff);
                    t.a[row][col + 1] = kind.value(bits >> 16);
                }
            }
            for (r, regs) in b.iter().enumerate() {
                let bits = regs[lane];
                if kind.tf32() {
                    t.b[i + 4 * r][g] = kind.value(bits);
                } else {
                    t.b[2 * i + 8 * r][g] = kind.value(bits & 0xffff);
                    t.b[2 * i + 8 * r + 1][g] = kind.value(bits >> 16);
                }
            }
            for (r, regs) in c.iter().enumerate() {
                t.c[g + 8 * (r >> 1)][2 * i + (r & 1)] = f32::from_bits(regs[lane]);
            }
        }
        t
    }

    fn finite(&self) -> bool {
        // A sum of absolute values is finite unless a term is not (or overflows, which the slow path handles as well).
        let sum = |rows: &[f32]| rows.iter().fold(0.0f64, |s, x| s + x.abs() as f64).is_finite();
        sum(self.a.as_flattened()) && sum(self.b.as_flattened()) && sum(self.c.as_flattened())
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
    let mut d = match numerics {
        Mma::Sequential => sequential(&t),
        Mma::Exact => exact(kind, &t),
        Mma::Truncate => truncate(kind, &t),
    };
    if numerics != Mma::Sequential && !t.finite() {
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

/// Each product rounded to f32 (exact but for underflow), added in f32, k ascending.
fn sequential(t: &Tile) -> [[f32; 8]; 16] {
    let mut d = t.c;
    for i in 0..16 {
        let mut acc = d[i];
        for k in 0..t.k {
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

fn exact(kind: MmaKind, t: &Tile) -> [[f32; 8]; 16] {
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
    let mut d = [[0.0; 8]; 16];
    for i in 0..16 {
        let mut sum: [f64; 8] = t.c[i].map(f64::from);
        let mut err = [0.0f64; 8];
        for k in 0..t.k {
            let x = t.a[i][k] as f64;
            if fits {
                for j in 0..8 {
                    sum[j] += x * t.b[k][j] as f64;
                }
            } else {
                for j in 0..8 {
                    let (s, e) = two_sum(sum[j], x * t.b[k][j] as f64);
                    sum[j] = s;
                    err[j] += e.abs();
                }
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
    let mut parts: Vec<f64> = vec![t.c[i][j] as f64];
    for k in 0..t.k {
        let mut q = t.a[i][k] as f64 * t.b[k][j] as f64;
        for p in parts.iter_mut() {
            (q, *p) = two_sum(q, *p);
        }
        parts.push(q);
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

fn truncate(kind: MmaKind, t: &Tile) -> [[f32; 8]; 16] {
    let exponent = |x: &f32| match (x.to_bits() >> 23 & 0xff) as i32 {
        0 if *x == 0.0 => -1000,
        0 => -126,
        e => e - 127,
    };
    let ea: [[i32; 16]; 16] = std::array::from_fn(|i| std::array::from_fn(|k| exponent(&t.a[i][k])));
    let eb: [[i32; 8]; 16] = std::array::from_fn(|k| std::array::from_fn(|j| exponent(&t.b[k][j])));
    let mut d = t.c;
    for i in 0..16 {
        for first in (0..t.k).step_by(kind.group()) {
            let group = first..first + kind.group();
            let mut top: [i32; 8] = std::array::from_fn(|j| exponent(&d[i][j]).max(-300));
            for k in group.clone() {
                for j in 0..8 {
                    top[j] = top[j].max(ea[i][k] + eb[k][j]);
                }
            }
            let scale: [f64; 8] = std::array::from_fn(|j| power(KEPT - top[j]));
            // Each term is below 2^27: nine of them fit an i32.
            let mut sum: [i32; 8] = std::array::from_fn(|j| (d[i][j] as f64 * scale[j]) as i32);
            for k in group {
                let x = t.a[i][k] as f64;
                for j in 0..8 {
                    sum[j] += (x * t.b[k][j] as f64 * scale[j]) as i32;
                }
            }
            for j in 0..8 {
                d[i][j] = toward_zero(sum[j] as f64 * power(top[j] - KEPT));
            }
        }
    }
    d
}

fn power(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

fn toward_zero(x: f64) -> f32 {
    if x.abs() < f32::MIN_POSITIVE as f64 {
        let units = (x.abs() * power(149)) as u32;
        return f32::from_bits(units | u32::from(x < 0.0) << 31);
    }
    f64::from_bits(x.to_bits() & !((1 << 29) - 1)) as f32
}

#[cfg(test)]
mod tests;
