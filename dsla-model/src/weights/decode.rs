//! Bytes of a weights file to numbers. Every encoding here is little-endian, row-major and, where quantised, in blocks
//! of 32 along the innermost dimension (ggml-quants.c; gguf-py/gguf/quants.py is the reference the tests use).

use dsla_kernels::ops::linear::Quant;
use dsla_kernels::{Tensor, bf16, par};
use half::f16;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a tensor's elements lie in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    F32,
    F16,
    BF16,
    /// 32 x i8 with an f16 scale.
    Q8_0,
    /// 32 x 4 bits less 8, with an f16 scale.
    Q4_0,
    /// 32 x 4 bits with an f16 scale and an f16 minimum.
    Q4_1,
}

impl Encoding {
    /// (elements, bytes) of the smallest piece that stands alone.
    pub fn block(self) -> (usize, usize) {
        match self {
            Encoding::F32 => (1, 4),
            Encoding::F16 | Encoding::BF16 => (1, 2),
            Encoding::Q8_0 => (32, 34),
            Encoding::Q4_0 => (32, 18),
            Encoding::Q4_1 => (32, 20),
        }
    }

    /// Bytes of a tensor, if its rows are whole blocks and the product fits.
    pub fn bytes(self, shape: &[usize]) -> Option<usize> {
        let (elements, bytes) = self.block();
        let row = shape.last().copied().unwrap_or(1);
        if row % elements != 0 {
            return None;
        }
        let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        // The decoded tensor takes up to 4 bytes per element: that product must fit as well.
        n.checked_mul(4)?;
        (n / elements).checked_mul(bytes)
    }
}

impl From<Quant> for Encoding {
    fn from(quant: Quant) -> Encoding {
        match quant {
            Quant::Q8_0 => Encoding::Q8_0,
            Quant::Q4_0 => Encoding::Q4_0,
            // The one format that is left: `Quant` may grow, and then this must.
            _ => Encoding::Q4_1,
        }
    }
}

fn half_at(b: &[u8], i: usize) -> f32 {
    f16::from_le_bytes([b[i], b[i + 1]]).to_f32()
}

/// One row to its elements: `row` holds exactly the whole blocks that fill `out`.
fn decode_row(encoding: Encoding, row: &[u8], out: &mut [f32]) {
    let (elements, size) = encoding.block();
    let blocks = out.chunks_exact_mut(elements).zip(row.chunks_exact(size));
    match encoding {
        Encoding::F32 => {
            blocks.for_each(|(o, b)| o[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        }
        Encoding::F16 => blocks.for_each(|(o, b)| o[0] = half_at(b, 0)),
        Encoding::BF16 => blocks.for_each(|(o, b)| o[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        Encoding::Q8_0 => {
            for (out, b) in blocks {
                let d = half_at(b, 0);
                for (o, &q) in out.iter_mut().zip(&b[2..]) {
                    *o = d * f32::from(q as i8);
                }
            }
        }
        Encoding::Q4_0 => {
            for (out, b) in blocks {
                let d = half_at(b, 0);
                let (low, high) = out.split_at_mut(16);
                for ((l, h), &q) in low.iter_mut().zip(high).zip(&b[2..]) {
                    *l = d * (f32::from(q & 15) - 8.0);
                    *h = d * (f32::from(q >> 4) - 8.0);
                }
            }
        }
        Encoding::Q4_1 => {
            for (out, b) in blocks {
                let (d, m) = (half_at(b, 0), half_at(b, 2));
                let (low, high) = out.split_at_mut(16);
                for ((l, h), &q) in low.iter_mut().zip(high).zip(&b[4..]) {
                    *l = d * f32::from(q & 15) + m;
                    *h = d * f32::from(q >> 4) + m;
                }
            }
        }
    }
}

/// Rows per piece of parallel work: pieces of about 64 Ki elements.
fn piece(row: usize) -> usize {
    ((1 << 16) / row.max(1)).max(1)
}

/// The row of the file that holds row `row` of the tensor: llama.cpp's converter interleaves the two rotary halves of
/// each head (HF row `half * d/2 + pair` becomes `2 * pair + half`), and this undoes it. `head_dim` 0: no change.
fn source_row(row: usize, head_dim: usize) -> usize {
    if head_dim == 0 {
        return row;
    }
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * pair + half
}

/// The tensor, or the flat index of its first element that is not finite.
///
/// `bytes` has exactly `encoding.bytes(shape)` bytes and `shape` at most four dimensions (the caller checked both
/// against the file). `head_dim` is not 0 for the q and k rows of a GGUF file: it divides the first dimension and is
/// even.
pub(crate) fn decode(
    encoding: Encoding,
    shape: &[usize],
    bytes: &[u8],
    head_dim: usize,
) -> Result<Tensor, usize> {
    let n: usize = shape.iter().product();
    if n == 0 {
        let dtype =
            if encoding == Encoding::BF16 { dsla_kernels::DType::BF16 } else { dsla_kernels::DType::F32 };
        return Ok(Tensor::zeros(shape, dtype));
    }
    let row = match (head_dim, shape) {
        // A permuted bias: its "rows" are single elements.
        (1.., [rows, ..]) => n / rows,
        _ => shape.last().copied().unwrap_or(1),
    };
    let (elements, size) = encoding.block();
    let row_bytes = row / elements * size;
    let rows = piece(row);
    let bad = AtomicUsize::new(usize::MAX);
    let source = |r: usize| {
        let at = source_row(r, head_dim) * row_bytes;
        &bytes[at..at + row_bytes]
    };
    let tensor = if encoding == Encoding::BF16 {
        let mut out = vec![bf16::ZERO; n];
        par::for_each_chunk(&mut out, rows * row, |p, chunk| {
            for (r, out) in chunk.chunks_exact_mut(row).enumerate() {
                for (o, b) in out.iter_mut().zip(source(p * rows + r).chunks_exact(2)) {
                    *o = bf16::from_le_bytes([b[0], b[1]]);
                }
            }
            if let Some(i) = chunk.iter().position(|x| !x.is_finite()) {
                bad.fetch_min(p * rows * row + i, Ordering::Relaxed);
            }
        });
        Tensor::from_bf16(shape, out)
    } else {
        let mut out = vec![0.0; n];
        par::for_each_chunk(&mut out, rows * row, |p, chunk| {
            for (r, out) in chunk.chunks_exact_mut(row).enumerate() {
                decode_row(encoding, source(p * rows + r), out);
            }
            if let Some(i) = chunk.iter().position(|x| !x.is_finite()) {
                bad.fetch_min(p * rows * row + i, Ordering::Relaxed);
            }
        });
        Tensor::from_f32(shape, out)
    };
    match bad.into_inner() {
        usize::MAX => Ok(tensor),
        i => Err(i),
    }
}

/// The blocks of a weight with rows of `k`, rows in HF order, or the flat index of the first element whose block has a scale
/// that is not finite. `bytes` holds whole rows of whole blocks; `head_dim` is as for [`decode`].
pub(crate) fn rows(quant: Quant, k: usize, bytes: &[u8], head_dim: usize) -> Result<Vec<u8>, usize> {
    let (elements, size) = Encoding::from(quant).block();
    let row = k / elements * size;
    let halves = if quant == Quant::Q4_1 { 2 } else { 1 };
    let mut out = vec![0; bytes.len()];
    let bad = AtomicUsize::new(usize::MAX);
    par::for_each_chunk(&mut out, piece(k) * row, |p, chunk| {
        for (r, out) in chunk.chunks_exact_mut(row.max(1)).enumerate() {
            let r = p * piece(k) + r;
            let at = source_row(r, head_dim) * row;
            out.copy_from_slice(&bytes[at..at + row]);
            let finite = |b: &[u8]| (0..halves).all(|h| half_at(b, 2 * h).is_finite());
            if let Some(b) = out.chunks_exact(size).position(|b| !finite(b)) {
                bad.fetch_min(r * k + b * elements, Ordering::Relaxed);
            }
        }
    });
    match bad.into_inner() {
        usize::MAX => Ok(out),
        i => Err(i),
    }
}
