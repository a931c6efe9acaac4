//! Linear layers and norms as blocks.

use dsla_kernels::ops::linear::{self, Packed};
use dsla_kernels::ops::{rms_norm, swiglu};
use dsla_kernels::simd::multiplies_bf16;
use dsla_kernels::{DType, Device, Result, Tensor, View, ViewMut};

pub use dsla_kernels::ops::linear::Into;

/// What attention hands on in a model of this dtype. A product rounds its input to its weight's dtype, so on a GPU, which is
/// bound by bytes, it is handed over rounded; the host's kernels round as they read. The residual stream is f32.
pub fn activation(device: Device, dtype: DType) -> DType {
    match device {
        Device::Cpu => DType::F32,
        _ => dtype,
    }
}

/// y = x W^T + b with W [N, K] packed.
#[derive(Debug)]
pub struct Linear {
    weight: Packed,
    bias: Option<Tensor>,
}

impl Linear {
    /// From a weight [N, K] (f32 or bf16) and a bias [N] f32.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Linear> {
        Ok(Linear { weight: Packed::new(weight.view())?, bias })
    }

    /// From a weight that is packed already and a bias [N] f32.
    pub fn packed(weight: Packed, bias: Option<Tensor>) -> Linear {
        Linear { weight, bias }
    }

    /// dx = dy W as a layer of its own: the transposed weight, without bias.
    pub fn transposed(weight: &Tensor) -> Result<Linear> {
        Ok(Linear { weight: Packed::transposed(weight.view())?, bias: None })
    }

    /// The dtype that an input is best written in: the weight's on a GPU, and bf16 on a host that multiplies it, else f32,
    /// which always fits.
    pub fn reads(&self) -> DType {
        match (self.weight.device(), self.weight.dtype()) {
            (Device::Cpu, DType::BF16) if multiplies_bf16() => DType::BF16,
            (device, dtype) => activation(device, dtype),
        }
    }

    /// silu(gate) * up of a layer whose rows are a gate's and then an up's, in `dtype` if that is the weight's, else in f32:
    /// [M, N / 2].
    pub fn forward_swiglu(&self, x: View, dtype: DType) -> Result<Tensor> {
        let [m, _] = x.dims("linear", "x")?;
        let dtype = if dtype == self.weight.dtype() { dtype } else { DType::F32 };
        let mut y = Tensor::empty_on(x.device(), [m, self.weight.n() / 2], dtype)?;
        match self.bias {
            None => linear::forward_swiglu(x, &self.weight, y.view_mut())?,
            Some(_) => swiglu::forward(self.forward(x)?.view(), y.view_mut())?,
        }
        Ok(y)
    }

    /// y = x W^T + b. x: [M, K]; the result is [M, N].
    pub fn forward(&self, x: View) -> Result<Tensor> {
        let [m, _] = x.dims("linear", "x")?;
        let mut y = Tensor::empty_on(x.device(), [m, self.weight.n()], DType::F32)?;
        self.forward_into(x, linear::Into::Store, y.view_mut())?;
        Ok(y)
    }

    /// [`Linear::forward`] in blocks of columns side by side: [M, widths[i]] each.
    pub fn forward_parts<const P: usize>(&self, x: View, widths: [usize; P]) -> Result<[Tensor; P]> {
        let [m, _] = x.dims("linear", "x")?;
        let mut parts = [const { None }; P];
        for (part, width) in parts.iter_mut().zip(widths) {
            *part = Some(Tensor::empty_on(x.device(), [m, width], DType::F32)?);
        }
        let mut parts = parts.map(|p| p.unwrap_or_else(|| unreachable!("all were made")));
        linear::forward_parts(
            x,
            &self.weight,
            self.bias.as_ref().map(Tensor::view),
            parts.each_mut().map(Tensor::view_mut),
        )?;
        Ok(parts)
    }

    /// y = or += x W^T + b.
    pub fn forward_into(&self, x: View, into: linear::Into, y: ViewMut) -> Result<()> {
        linear::forward(x, &self.weight, self.bias.as_ref().map(Tensor::view), into, y)
    }

    /// The packed weight.
    pub fn weight(&self) -> &Packed {
        &self.weight
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_ref().map_or(0, Tensor::bytes)
    }
}

/// RMSNorm with its weight.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    /// From a weight [C] f32.
    ///
    /// Errors: no memory left on the weight's device.
    pub fn new(weight: Tensor, eps: f32) -> Result<RmsNorm> {
        Ok(RmsNorm { weight: weight.to_dtype(DType::F32)?, eps })
    }

    /// x [T, C] normalised.
    pub fn forward(&self, x: View) -> Result<Tensor> {
        self.forward_as(x, DType::F32)
    }

    /// x [T, C] normalised, rounded to a dtype: what the next layer [`reads`](Linear::reads).
    pub fn forward_as(&self, x: View, dtype: DType) -> Result<Tensor> {
        let mut y = Tensor::empty_on(x.device(), x.shape(), dtype)?;
        rms_norm::forward(x, self.weight.view(), self.eps, y.view_mut())?;
        Ok(y)
    }

    /// dx from dy at input x.
    pub fn backward(&self, x: View, dy: View) -> Result<Tensor> {
        let mut dx = Tensor::empty_on(x.device(), x.shape(), DType::F32)?;
        rms_norm::backward(x, self.weight.view(), self.eps, dy, dx.view_mut(), None)?;
        Ok(dx)
    }

    /// [`RmsNorm::backward`], and the weight's gradient, added to `dw` [C].
    pub fn backward_weight(&self, x: View, dy: View, dw: ViewMut) -> Result<Tensor> {
        let mut dx = Tensor::empty_on(x.device(), x.shape(), DType::F32)?;
        rms_norm::backward(x, self.weight.view(), self.eps, dy, dx.view_mut(), Some(dw))?;
        Ok(dx)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }
}
