//! Linear layers and norms as blocks.

use dsla_kernels::ops::linear::{self, Packed};
use dsla_kernels::ops::rms_norm;
use dsla_kernels::{DType, Result, Tensor, View, ViewMut};

pub use dsla_kernels::ops::linear::Into;

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

    /// y = x W^T + b. x: [M, K]; the result is [M, N].
    pub fn forward(&self, x: View) -> Result<Tensor> {
        let [m, _] = x.dims("linear", "x")?;
        let mut y = Tensor::empty_on(x.device(), [m, self.weight.n()], DType::F32)?;
        self.forward_into(x, linear::Into::Store, y.view_mut())?;
        Ok(y)
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
        let mut y = Tensor::empty_on(x.device(), x.shape(), DType::F32)?;
        rms_norm::forward(x, self.weight.view(), self.eps, y.view_mut())?;
        Ok(y)
    }

    /// dx from dy at input x.
    pub fn backward(&self, x: View, dy: View) -> Result<Tensor> {
        let mut dx = Tensor::empty_on(x.device(), x.shape(), DType::F32)?;
        rms_norm::backward(x, self.weight.view(), self.eps, dy, dx.view_mut(), None)?;
        Ok(dx)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }
}
