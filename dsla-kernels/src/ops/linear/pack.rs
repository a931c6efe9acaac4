//! Weights in the order the kernels read them.

use crate::{DType, Error, Result, Slice, View, bf16};

/// One 64-byte line: 16 f32, or 16 columns by 2 consecutive k of bf16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line<T: Copy, const N: usize>(pub [T; N]);

pub(super) type LineF32 = Line<f32, 16>;
pub(super) type LineBf16 = Line<u16, 32>;

/// A weight [N, K] in panels of 16 outputs: f32 as [N/16][K][16], bf16 as [N/16][K/2][16][2], padded with zeros to
/// whole panels (and, for bf16, to K a multiple of 32: whole AMX tiles).
pub struct Packed {
    n: usize,
    k: usize,
    pub(super) data: Panels,
}

pub(super) enum Panels {
    F32(Vec<LineF32>),
    BF16(Vec<LineBf16>),
}

impl Packed {
    /// Pack a weight [N, K], f32 or bf16.
    pub fn new(w: View) -> Result<Packed> {
        let [n, k] = w.dims("linear", "w")?;
        Packed::build(w, n, k, |j, i| j * k + i)
    }

    /// Pack the transpose of a weight [K, N]: the product dx = dy W of the backward pass.
    pub fn transposed(w: View) -> Result<Packed> {
        let [k, n] = w.dims("linear", "w")?;
        Packed::build(w, n, k, |j, i| i * n + j)
    }

    fn build(w: View, n: usize, k: usize, at: impl Fn(usize, usize) -> usize + Sync) -> Result<Packed> {
        let panels = n.div_ceil(16);
        let data = match w.slice() {
            Slice::F32(w) => {
                let mut lines = vec![Line([0.0; 16]); panels * k];
                crate::par::for_each_chunk(&mut lines, k, |p, lines| {
                    for (i, line) in lines.iter_mut().enumerate() {
                        for l in 0..16.min(n - p * 16) {
                            line.0[l] = w[at(p * 16 + l, i)];
                        }
                    }
                });
                Panels::F32(lines)
            }
            Slice::BF16(w) => {
                let half_k = k.next_multiple_of(32) / 2;
                let mut lines = vec![Line([0u16; 32]); panels * half_k];
                crate::par::for_each_chunk(&mut lines, half_k, |p, lines| {
                    for (i, line) in lines.iter_mut().enumerate() {
                        for l in 0..16.min(n - p * 16) {
                            for h in 0..2usize.min(k.saturating_sub(2 * i)) {
                                line.0[2 * l + h] = w[at(p * 16 + l, 2 * i + h)].to_bits();
                            }
                        }
                    }
                });
                Panels::BF16(lines)
            }
            Slice::F16(_) | Slice::U32(_) => {
                return Err(Error::DType { op: "linear", arg: "w", got: w.dtype(), want: "f32 or bf16" });
            }
        };
        Ok(Packed { n, k, data })
    }

    /// The weight [N, K] as a device tensor; None on the host, where it is packed.
    pub fn as_view(&self) -> Option<View<'_>> {
        None
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.data {
            Panels::F32(_) => DType::F32,
            Panels::BF16(_) => DType::BF16,
        }
    }

    /// Bytes held, padding included.
    pub fn bytes(&self) -> usize {
        64 * match &self.data {
            Panels::F32(l) => l.len(),
            Panels::BF16(l) => l.len(),
        }
    }

    /// Row `j` as f32: the embedding of token j when the table is tied to the output layer.
    pub fn row(&self, j: usize, out: &mut [f32]) {
        let (p, l) = (j / 16, j % 16);
        match &self.data {
            Panels::F32(lines) => {
                for (i, o) in out.iter_mut().enumerate() {
                    *o = lines[p * self.k + i].0[l];
                }
            }
            Panels::BF16(lines) => {
                let half_k = self.k.next_multiple_of(32) / 2;
                for (i, o) in out.iter_mut().enumerate() {
                    *o = bf16::from_bits(lines[p * half_k + i / 2].0[2 * l + i % 2]).to_f32();
                }
            }
        }
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed[{}, {}] {}", self.n, self.k, self.dtype())
    }
}

/// x [M, K] rounded to bf16 in tiles [M/16][K/32][16 rows][32 k], zero-padded: contiguous for AMX, and a broadcast
/// of two consecutive k for the vector kernels.
pub(super) struct Tiles {
    pub lines: Vec<LineBf16>,
    pub k_tiles: usize,
}

impl Tiles {
    pub fn new(x: &[f32], m: usize, k: usize) -> Tiles {
        let k_tiles = k.div_ceil(32);
        let mut lines = vec![Line([0u16; 32]); m.div_ceil(16) * k_tiles * 16];
        let per = if m >= 64 { k_tiles * 16 } else { lines.len() };
        let fill = |t: usize, tiles: &mut [LineBf16]| {
            let first = t * (per / (k_tiles * 16)) * 16;
            for (q, line) in tiles.iter_mut().enumerate() {
                let (row, col) = (first + q / (k_tiles * 16) * 16 + q % 16, q / 16 % k_tiles * 32);
                if row < m {
                    let len = 32.min(k - col);
                    round(&x[row * k + col..row * k + col + len], &mut line.0[..len]);
                }
            }
        };
        crate::par::for_each_chunk(&mut lines, per, fill);
        Tiles { lines, k_tiles }
    }
}

crate::multiversion! {
    /// Round to nearest even; NaN stays NaN.
    fn round<const FMA: bool>(x: &[f32], out: &mut [u16]) {
        let _ = FMA;
        for (o, &v) in out.iter_mut().zip(x) {
            let b = v.to_bits();
            let r = (b.wrapping_add(0x7fff + ((b >> 16) & 1)) >> 16) as u16;
            *o = if v.is_nan() { 0x7fc0 } else { r };
        }
    }
}
