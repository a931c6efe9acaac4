//! Weights in the order the kernels read them.

use super::quant::{Blocks, Quant};
use super::{OP, cuda};
use crate::memory::Memory;
use crate::{DType, Device, Error, Result, Slice, Tensor, View, bf16};

/// One 64-byte line: 16 f32, or 16 columns by 2 consecutive k of bf16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line<T: Copy, const N: usize>(pub [T; N]);

// SAFETY: zeros are an array of whatever zero is one of, and there is nothing else.
unsafe impl<T: Copy + bytemuck::Zeroable, const N: usize> bytemuck::Zeroable for Line<T, N> {}

pub(super) type LineF32 = Line<f32, 16>;
pub(super) type LineBf16 = Line<u16, 32>;

/// A weight [N, K]. On the host in panels of 16 outputs: f32 as [N/16][K][16], bf16 as [N/16][K/2][16][2], padded with
/// zeros to whole panels (and, for bf16, to K a multiple of 32: whole AMX tiles); f16, which few CPUs multiply, widened to
/// f32. On a GPU as it is, row by row, and once more with padded rows where K is no multiple of 16 bytes. Quantised blocks
/// stay quantised, on the host only.
pub struct Packed {
    n: usize,
    k: usize,
    pub(super) data: Panels,
}

pub(super) enum Panels {
    F32(Memory<LineF32>),
    BF16(Memory<LineBf16>),
    /// f16 widened to f32.
    F16(Memory<LineF32>),
    Quant(Blocks),
    Cuda(Weight),
}

/// A weight on a GPU.
pub(crate) struct Weight {
    plain: Tensor,
    /// The same with rows of whole 16 bytes, where those of `plain` are not: what the kernels load at once.
    padded: Option<Tensor>,
}

impl Weight {
    fn new(plain: Tensor) -> Result<Weight> {
        let [_, k] = plain.view().dims(OP, "w")?;
        let ld = k.next_multiple_of(16 / plain.dtype().size());
        let padded = if ld == k { None } else { Some(cuda::pad(plain.view(), ld)?) };
        Ok(Weight { plain, padded })
    }

    /// Elements of a row: K or a little more.
    pub fn ld(&self) -> usize {
        self.view().shape().dims()[1]
    }

    /// Rows.
    pub fn n(&self) -> usize {
        self.plain.dims()[0]
    }

    pub fn dtype(&self) -> DType {
        self.plain.dtype()
    }

    pub fn device(&self) -> Device {
        self.plain.device()
    }

    /// [N, ld], what kernels read.
    pub fn view(&self) -> View<'_> {
        self.padded.as_ref().unwrap_or(&self.plain).view()
    }
}

impl Packed {
    /// Pack a weight [N, K], f32, bf16 or f16, on the device it is on.
    ///
    /// Errors: another dtype or rank; no memory on the device.
    pub fn new(w: View) -> Result<Packed> {
        let [n, k] = w.dims(OP, "w")?;
        if w.device() != Device::Cpu {
            return Packed::on_device(n, k, w.dtype(), || w.to_tensor());
        }
        Packed::build(w, n, k, |j, i| j * k + i)
    }

    /// Pack the transpose of a weight [K, N]: the product dx = dy W of the backward pass.
    ///
    /// Errors: as [`Packed::new`].
    pub fn transposed(w: View) -> Result<Packed> {
        let [k, n] = w.dims(OP, "w")?;
        if w.device() != Device::Cpu {
            return Packed::on_device(n, k, w.dtype(), || cuda::transpose(w));
        }
        Packed::build(w, n, k, |j, i| i * n + j)
    }

    /// Quantise a weight [N, K], f32, bf16 or f16 on the host, as ggml's reference does, and pack it.
    ///
    /// Errors: another dtype or rank; K no multiple of 32; a weight on a GPU, which multiplies f32, bf16 and f16 only.
    pub fn quantised(w: View, quant: Quant) -> Result<Packed> {
        let [n, k] = w.dims(OP, "w")?;
        Packed::from_blocks(quant, &quant.quantise(w)?, n, k)
    }

    /// Pack a weight [n, k] of GGUF's blocks as they lie in a file: row by row, little-endian. For the host.
    ///
    /// Errors: k no multiple of 32; another number of bytes than [`Quant::bytes`].
    pub fn from_blocks(quant: Quant, blocks: &[u8], n: usize, k: usize) -> Result<Packed> {
        Ok(Packed { n, k, data: Panels::Quant(Blocks::new(quant, blocks, n, k)?) })
    }

    fn on_device(n: usize, k: usize, dtype: DType, copy: impl Fn() -> Result<Tensor>) -> Result<Packed> {
        match dtype {
            DType::F32 | DType::BF16 | DType::F16 => Ok(Packed { n, k, data: Panels::Cuda(Weight::new(copy()?)?) }),
            got => Err(Error::DType { op: OP, arg: "w", got, want: "f32, bf16 or f16" }),
        }
    }

    fn build(w: View, n: usize, k: usize, at: impl Fn(usize, usize) -> usize + Sync) -> Result<Packed> {
        let panels = n.div_ceil(16);
        let data = match w.slice() {
            Slice::F32(w) => Panels::F32(f32_panels(n, k, |j, i| w[at(j, i)])),
            Slice::F16(w) => Panels::F16(f32_panels(n, k, |j, i| w[at(j, i)].to_f32())),
            Slice::BF16(w) => {
                let half_k = k.next_multiple_of(32) / 2;
                let mut lines = Memory::<LineBf16>::zeros(panels * half_k);
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
            Slice::U32(_) => {
                return Err(Error::DType { op: OP, arg: "w", got: w.dtype(), want: "f32, bf16 or f16" });
            }
        };
        Ok(Packed { n, k, data })
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// How it is quantised, if it is.
    pub fn quant(&self) -> Option<Quant> {
        match &self.data {
            Panels::Quant(b) => Some(b.quant),
            _ => None,
        }
    }

    /// Element type; of a quantised weight that of its rows as [`Packed::row`] gives them.
    pub fn dtype(&self) -> DType {
        match &self.data {
            Panels::F32(_) | Panels::Quant(_) => DType::F32,
            Panels::BF16(_) => DType::BF16,
            Panels::F16(_) => DType::F16,
            Panels::Cuda(w) => w.dtype(),
        }
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        match &self.data {
            Panels::Cuda(w) => w.device(),
            _ => Device::Cpu,
        }
    }

    /// The weight [N, K] of a GPU: what an embedding reads when the table is tied to the output layer. None on the host,
    /// where [`Packed::row`] serves that.
    pub fn as_view(&self) -> Option<View<'_>> {
        match &self.data {
            Panels::Cuda(w) => Some(w.plain.view()),
            _ => None,
        }
    }

    /// Bytes held, padding included.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Panels::F32(l) | Panels::F16(l) => 64 * l.len(),
            Panels::BF16(l) => 64 * l.len(),
            Panels::Quant(b) => b.bytes(),
            Panels::Cuda(w) => w.plain.bytes() + w.padded.as_ref().map_or(0, Tensor::bytes),
        }
    }

    /// Row `j` as f32: the embedding of token j when the table is tied to the output layer. Panics for a weight that is
    /// not on the host.
    pub fn row(&self, j: usize, out: &mut [f32]) {
        let (p, l) = (j / 16, j % 16);
        match &self.data {
            Panels::F32(lines) | Panels::F16(lines) => {
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
            Panels::Quant(b) => b.row(j, out),
            Panels::Cuda(_) => panic!("a row of a weight on {}", self.device()),
        }
    }
}

fn f32_panels(n: usize, k: usize, at: impl Fn(usize, usize) -> f32 + Sync) -> Memory<LineF32> {
    let mut lines = Memory::<LineF32>::zeros(n.div_ceil(16) * k);
    crate::par::for_each_chunk(&mut lines, k, |p, lines| {
        for (i, line) in lines.iter_mut().enumerate() {
            for l in 0..16.min(n - p * 16) {
                line.0[l] = at(p * 16 + l, i);
            }
        }
    });
    lines
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let format = self.quant().map_or(self.dtype().name(), Quant::name);
        write!(f, "Packed[{}, {}] {format}", self.n, self.k)
    }
}
