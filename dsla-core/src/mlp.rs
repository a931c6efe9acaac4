//! The Llama MLP: down(silu(gate x) * up x), gate and up as one product.

use crate::linear::{Into, Linear};
use dsla_kernels::{Result, View, ViewMut};

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
        let act = self.gate_up.forward_swiglu(x, self.down.reads())?;
        self.down.forward_into(act.view(), Into::Add, y)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.gate_up.bytes() + self.down.bytes()
    }
}
