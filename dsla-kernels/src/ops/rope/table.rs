//! Cosines and sines, computed once per model.

use crate::{DType, Device, Result, Tensor, par};

const ROWS: usize = 64;

/// cos and sin of position * frequency: both [S, D/2] f32.
#[derive(Clone, Debug)]
pub struct Table {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
    scale: f32,
}

impl Table {
    /// A table for positions `0..positions`. inv_freq: [D/2], radians per position; `scale` multiplies every entry
    /// (Hugging Face's `attention_scaling`: 1 but for YaRN and LongRoPE).
    ///
    /// The angle is an f32 product of an f32 frequency and an f32 position, as in Hugging Face's
    /// `LlamaRotaryEmbedding`: a more exact angle would not be the one the weights were trained with. Its cosine and
    /// sine are taken in f64 and rounded once.
    pub fn new(inv_freq: &[f64], positions: usize, scale: f32) -> Table {
        let mut cos = Tensor::empty([positions, inv_freq.len()], DType::F32);
        let mut sin = Tensor::empty([positions, inv_freq.len()], DType::F32);
        fill(cos.f32_mut(), inv_freq, scale, f64::cos);
        fill(sin.f32_mut(), inv_freq, scale, f64::sin);
        Table { cos, sin, scale }
    }

    /// A copy on another device: ops want the table where x is.
    ///
    /// Errors: no such device, no memory left there.
    pub fn to_device(&self, device: Device) -> Result<Table> {
        Ok(Table { cos: self.cos.to_device(device)?, sin: self.sin.to_device(device)?, scale: self.scale })
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.cos.device()
    }

    /// S: the positions held are those below.
    pub fn positions(&self) -> usize {
        self.cos.dims()[0]
    }

    /// D/2: pairs of values that turn together in a head.
    pub fn pairs(&self) -> usize {
        self.cos.dims()[1]
    }

    /// What every entry is multiplied with.
    pub fn scale(&self) -> f32 {
        self.scale
    }
}

fn fill(out: &mut [f32], inv_freq: &[f64], scale: f32, f: fn(f64) -> f64) {
    let pairs = inv_freq.len();
    par::for_each_chunk(out, ROWS * pairs, |i, out| {
        for (r, row) in out.chunks_exact_mut(pairs).enumerate() {
            let position = (i * ROWS + r) as f32;
            for (o, &w) in row.iter_mut().zip(inv_freq) {
                let angle = w as f32 * position;
                *o = (f(angle as f64) * scale as f64) as f32;
            }
        }
    });
}
