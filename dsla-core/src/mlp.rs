//! The Llama MLP: down(silu(gate x) * up x), gate and up as one product.

use crate::linear::{Into, Linear};
use dsla_kernels::ops::swiglu;
use dsla_kernels::{DType, Result, Tensor, View, ViewMut};

/// Gate and up fused into one linear layer, then down.
#[derive(Debug)]
pub struct Mlp {
    /// [2 F, C]: gate rows, then up rows.
    pub gate_up: Linear,
    /// [C, F]
    pub down: Linear,
}

impl Mlp {
    /// y += mlp(x). x, y: [T, C].
    pub fn add_to(&self, x: View, y: ViewMut) -> Result<()> {
        let gate_up = self.gate_up.forward(x)?;
        let dims = gate_up.dims();
        let mut act = Tensor::empty_on(x.device(), [dims[0], dims[1] / 2], DType::F32)?;
        swiglu::forward(gate_up.view(), act.view_mut())?;
        self.down.forward_into(act.view(), Into::Add, y)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.gate_up.bytes() + self.down.bytes()
    }
}
