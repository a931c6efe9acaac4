//! Weights that stay quantised in memory: GGUF's blocks of 32 along K, multiplied with int8 activations.
//!
//! A row of x is quantised to int8 per block of 32, with an f32 scale; a block's product is summed exactly in integers,
//! scaled, and the blocks are summed in f32 in the order of K. Sources of the formats: `quantize_row_*_ref` in ggml's
//! ggml-quants.c, and gguf-py/gguf/quants.py, whose bytes the tests compare with.

mod activation;
pub(super) mod cases;
pub(super) mod cpu;
mod isa;
pub mod naive;
#[cfg(test)]
mod tests;

use super::OP;
use super::pack::Line;
use crate::memory::Memory;
use crate::{Device, Error, Result, Slice, View, f16, par};

/// Weights per block.
const BLOCK: usize = 32;
/// Columns per panel: one 64-byte line holds 4 bytes of each.
const COLS: usize = 16;

/// How a weight is quantised: GGUF's names, GGUF's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Quant {
    /// 32 x i8 with an f16 scale: 8.5 bits per weight.
    Q8_0,
    /// 32 x 4 bits less 8, with an f16 scale: 4.5 bits per weight.
    Q4_0,
    /// 32 x 4 bits with an f16 scale and an f16 minimum: 5 bits per weight.
    Q4_1,
}

impl Quant {
    /// All formats.
    pub const ALL: [Quant; 3] = [Quant::Q8_0, Quant::Q4_0, Quant::Q4_1];

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Quant::Q8_0 => "q8_0",
            Quant::Q4_0 => "q4_0",
            Quant::Q4_1 => "q4_1",
        }
    }

    /// Bytes of a block of 32 weights.
    pub fn block_bytes(self) -> usize {
        self.header() + self.payload()
    }

    /// Bytes of a weight [n, k]; none where the product is too large. `k` is a multiple of 32.
    pub fn bytes(self, n: usize, k: usize) -> Option<usize> {
        n.checked_mul(k / BLOCK)?.checked_mul(self.block_bytes())
    }

    /// Bytes of a block's scale, and minimum.
    fn header(self) -> usize {
        match self {
            Quant::Q8_0 | Quant::Q4_0 => 2,
            Quant::Q4_1 => 4,
        }
    }

    /// Bytes of a block's weights.
    fn payload(self) -> usize {
        match self {
            Quant::Q8_0 => 32,
            Quant::Q4_0 | Quant::Q4_1 => 16,
        }
    }

    /// A weight [N, K], f32, bf16 or f16 on the host, as GGUF's blocks, row by row: the bytes ggml's reference makes.
    ///
    /// Errors: another dtype or rank, K no multiple of 32, a weight on a GPU (which multiplies f32, bf16 and f16 only).
    pub fn quantise(self, w: View) -> Result<Vec<u8>> {
        let [n, k] = w.dims(OP, "w")?;
        self.check(w.device(), n, k)?;
        let wide = |at: usize, out: &mut [f32]| match w.slice() {
            Slice::F32(w) => out.copy_from_slice(&w[at..at + BLOCK]),
            Slice::BF16(w) => out.iter_mut().zip(&w[at..]).for_each(|(o, w)| *o = w.to_f32()),
            Slice::F16(w) => out.iter_mut().zip(&w[at..]).for_each(|(o, w)| *o = w.to_f32()),
            Slice::U32(_) => {}
        };
        if let Slice::U32(_) = w.slice() {
            return Err(Error::DType { op: OP, arg: "w", got: w.dtype(), want: "f32, bf16 or f16" });
        }
        let mut bytes = vec![0; n * k / BLOCK * self.block_bytes()];
        // 64 Ki weights per task.
        const PIECE: usize = 2048;
        par::for_each_chunk(&mut bytes, PIECE * self.block_bytes(), |p, bytes| {
            let mut x = [0.0; BLOCK];
            for (b, out) in bytes.chunks_exact_mut(self.block_bytes()).enumerate() {
                wide((p * PIECE + b) * BLOCK, &mut x);
                self.quantise_block(&x, out);
            }
        });
        Ok(bytes)
    }

    fn check(self, device: Device, n: usize, k: usize) -> Result<()> {
        if device != Device::Cpu {
            let want = format!("f32, bf16 or f16 on {device}");
            return Err(Error::Argument { op: OP, arg: "w", got: self.name().into(), want });
        }
        if !k.is_multiple_of(BLOCK) {
            let want = format!("[N, K], K a multiple of {BLOCK}, for {self}");
            return Err(Error::Shape { op: OP, arg: "w", got: [n, k].into(), want });
        }
        Ok(())
    }

    fn quantise_block(self, x: &[f32; BLOCK], out: &mut [u8]) {
        let inverse = |d: f32| if d == 0.0 { 0.0 } else { 1.0 / d };
        match self {
            Quant::Q8_0 => {
                let d = x.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
                let id = inverse(d);
                out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
                for (o, v) in out[2..].iter_mut().zip(x) {
                    // Half away from zero, as roundf: the float below 0.5 keeps 0.49999997 from going up.
                    let v = v * id;
                    *o = (v + 0.499_999_97f32.copysign(v)) as i32 as u8;
                }
            }
            Quant::Q4_0 => {
                let max = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
                let d = max / -8.0;
                let id = f64::from(inverse(d));
                out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
                // In f64, as gguf-py does: ggml's own rounding depends on whether its compiler fuses.
                let q = |v: f32| ((f64::from(v) * id + 8.5) as u8).min(15);
                for (j, o) in out[2..].iter_mut().enumerate() {
                    *o = q(x[j]) | q(x[j + 16]) << 4;
                }
            }
            Quant::Q4_1 => {
                let min = x.iter().copied().fold(f32::INFINITY, f32::min);
                let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let d = (max - min) / 15.0;
                let id = inverse(d);
                out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
                out[2..4].copy_from_slice(&f16::from_f32(min).to_le_bytes());
                let q = |v: f32| (((v - min) * id + 0.5) as u8).min(15);
                for (j, o) in out[4..].iter_mut().enumerate() {
                    *o = q(x[j]) | q(x[j + 16]) << 4;
                }
            }
        }
    }
}

impl std::fmt::Display for Quant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A quantised weight in panels of 16 columns, padded with zeros to whole panels. Byte for byte what the blocks held,
/// in another order: 4 bytes of each column make a line, so that one vector load has 4 products for each of its lanes.
pub(super) struct Blocks {
    pub quant: Quant,
    /// [N/16][K/32][payload/4] lines of [16][4] bytes.
    lines: Memory<Line<u8, 64>>,
    /// [N/16][K/32][16] f16, or, with minima, [N/16][K/32][2][16].
    scales: Memory<u16>,
    /// K/32.
    blocks: usize,
}

impl Blocks {
    /// From GGUF's blocks, row by row.
    pub fn new(quant: Quant, bytes: &[u8], n: usize, k: usize) -> Result<Blocks> {
        quant.check(Device::Cpu, n, k)?;
        if quant.bytes(n, k) != Some(bytes.len()) {
            let got = format!("{} bytes", bytes.len());
            let want = format!("{n} x {k} weights in {} bytes per {BLOCK}", quant.block_bytes());
            return Err(Error::Argument { op: OP, arg: "blocks", got, want });
        }
        let (blocks, size, header) = (k / BLOCK, quant.block_bytes(), quant.header());
        let (steps, panels) = (quant.payload() / 4, n.div_ceil(COLS));
        let block = |p: usize, l: usize, b: usize| {
            let at = ((p * COLS + l) * blocks + b) * size;
            &bytes[at..at + size]
        };
        let mut lines = Memory::<Line<u8, 64>>::zeros(panels * blocks * steps);
        par::for_each_chunk(&mut lines, blocks * steps, |p, lines| {
            for l in 0..COLS.min(n - p * COLS) {
                for b in 0..blocks {
                    for (s, q) in block(p, l, b)[header..].chunks_exact(4).enumerate() {
                        lines[b * steps + s].0[4 * l..4 * l + 4].copy_from_slice(q);
                    }
                }
            }
        });
        let halves = header / 2;
        let mut scales = Memory::<u16>::zeros(panels * blocks * halves * COLS);
        par::for_each_chunk(&mut scales, blocks * halves * COLS, |p, scales| {
            for l in 0..COLS.min(n - p * COLS) {
                for b in 0..blocks {
                    for (h, s) in block(p, l, b)[..header].chunks_exact(2).enumerate() {
                        scales[(b * halves + h) * COLS + l] = u16::from_le_bytes([s[0], s[1]]);
                    }
                }
            }
        });
        Ok(Blocks { quant, lines, scales, blocks })
    }

    /// Bytes held, padding included.
    pub fn bytes(&self) -> usize {
        64 * self.lines.len() + 2 * self.scales.len()
    }

    /// Row `j`, dequantised.
    pub fn row(&self, j: usize, out: &mut [f32]) {
        let (p, l) = (j / COLS, j % COLS);
        let (steps, halves) = (self.quant.payload() / 4, self.quant.header() / 2);
        for (b, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let at = p * self.blocks + b;
            let byte = |i: usize| self.lines[at * steps + i / 4].0[4 * l + i % 4];
            let half = |h: usize| f16::from_bits(self.scales[(at * halves + h) * COLS + l]).to_f32();
            let nibble = |i: usize| f32::from(if i < 16 { byte(i) & 15 } else { byte(i - 16) >> 4 });
            for (i, o) in out.iter_mut().enumerate() {
                *o = match self.quant {
                    Quant::Q8_0 => half(0) * f32::from(byte(i) as i8),
                    Quant::Q4_0 => half(0) * (nibble(i) - 8.0),
                    Quant::Q4_1 => half(0) * nibble(i) + half(1),
                };
            }
        }
    }
}
