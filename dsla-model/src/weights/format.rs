//! What linear weights are held in.

use crate::{Error, Result, Weights};
use dsla_core::{DType, Device};
use dsla_kernels::ops::linear::{Packed, Quant};

/// How a model holds its linear weights (projections, MLP, output layer). Norms are f32, activations too; the KV cache is
/// in [`WeightFormat::dtype`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightFormat {
    /// As floats.
    Dense(DType),
    /// In blocks of 32, on the host only: taken as they are from a GGUF file that has the same format, quantised from
    /// the file's values otherwise. The output layer, and the embedding where they are one, is Q8_0 in every such model:
    /// in 4 bits it costs more than all other layers together.
    Quantised(Quant),
}

impl WeightFormat {
    /// Element type of what is not quantised: KV cache, states of converted layers, an embedding that is no output layer.
    pub fn dtype(self) -> DType {
        match self {
            WeightFormat::Dense(dtype) => dtype,
            WeightFormat::Quantised(_) => DType::BF16,
        }
    }

    /// Refuses what `device` does not multiply.
    pub(crate) fn check(self, device: Device) -> Result<()> {
        let want = match (self, device) {
            (WeightFormat::Dense(DType::F32 | DType::BF16), _)
            | (WeightFormat::Dense(DType::F16), Device::Cuda(_))
            | (WeightFormat::Quantised(_), Device::Cpu) => return Ok(()),
            (_, Device::Cpu) => "f32, bf16, q8_0, q4_0 or q4_1 on cpu".into(),
            _ => format!("f32, bf16 or f16 on {device}"),
        };
        Err(Error::Argument { op: "load", arg: "dtype", got: self.to_string(), want })
    }
}

impl From<DType> for WeightFormat {
    fn from(dtype: DType) -> WeightFormat {
        WeightFormat::Dense(dtype)
    }
}

impl From<Quant> for WeightFormat {
    fn from(quant: Quant) -> WeightFormat {
        WeightFormat::Quantised(quant)
    }
}

impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WeightFormat::Dense(dtype) => dtype.fmt(f),
            WeightFormat::Quantised(quant) => quant.fmt(f),
        }
    }
}

/// From the name that [`Display`](std::fmt::Display) gives.
impl std::str::FromStr for WeightFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<WeightFormat> {
        let dense = [DType::F32, DType::BF16, DType::F16].map(WeightFormat::from);
        let all = dense.into_iter().chain(Quant::ALL.map(WeightFormat::from));
        all.into_iter().find(|f| f.to_string() == name).ok_or_else(|| Error::Argument {
            op: "load",
            arg: "dtype",
            got: crate::error::one_line(name),
            want: "f32, bf16, f16, q8_0, q4_0 or q4_1".into(),
        })
    }
}

/// Weights [N, K] of the same K, one below the other, as one quantised weight.
pub(crate) fn quantised(weights: &Weights, names: &[String], quant: Quant) -> Result<Packed> {
    let (mut blocks, mut n, mut width) = (vec![], 0, 0);
    for name in names {
        blocks.extend(weights.blocks(name, quant)?);
        let shape = weights.shape(name).unwrap_or_default();
        n += shape.first().copied().unwrap_or_default();
        width = shape.last().copied().unwrap_or_default();
    }
    Ok(Packed::from_blocks(quant, &blocks, n, width)?)
}
