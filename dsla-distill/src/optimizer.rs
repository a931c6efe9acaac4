//! AdamW over a layer's f32 masters, which live on the host, with the gradient clipped by the layer's own norm.

use crate::Result;
use dsla_core::DslaParams;
use dsla_core::attention::DslaAttention;
use dsla_kernels::ops::adamw::{self, AdamW};

/// First and second moments of one layer.
#[derive(Clone, Debug)]
pub struct Moments {
    pub m: DslaParams,
    pub v: DslaParams,
}

impl Moments {
    pub fn new(params: &DslaParams) -> Result<Moments> {
        Ok(Moments { m: params.zeros_like()?, v: params.zeros_like()? })
    }

    /// Zero, for each layer that there is.
    pub fn of(layers: &[Option<DslaAttention>]) -> Result<Vec<Option<Moments>>> {
        layers.iter().map(|l| l.as_ref().map(|l| Moments::new(&l.params)).transpose()).collect()
    }
}

/// Changes of pretrained projections learn at a tenth of the rate of what starts from nothing.
fn scale_of(name: &str) -> f64 {
    if matches!(name, "q_a" | "q_b" | "o_a" | "o_b") { 0.1 } else { 1.0 }
}

/// One step of every layer that has a gradient.
pub fn step_layers(
    layers: &mut [Option<DslaAttention>],
    grads: &mut [Option<DslaParams>],
    moments: &mut [Option<Moments>],
    clip: f64,
    options: &AdamW,
) -> Result<()> {
    for ((layer, grads), moments) in layers.iter_mut().zip(grads).zip(moments) {
        if let (Some(layer), Some(grads), Some(moments)) = (layer, grads, moments) {
            step(&mut layer.params, grads, moments, clip, options)?;
        }
    }
    Ok(())
}

/// One step; returns the gradient's norm before clipping.
pub fn step(
    params: &mut DslaParams,
    grads: &mut DslaParams,
    moments: &mut Moments,
    clip: f64,
    options: &AdamW,
) -> Result<f64> {
    let squares: f64 = grads.tensors().iter().flat_map(|(_, t)| t.f32()).map(|&g| (g as f64).powi(2)).sum();
    let norm = squares.sqrt();
    if norm > clip {
        let scale = (clip / norm) as f32;
        for (_, g) in grads.tensors_mut() {
            g.f32_mut().iter_mut().for_each(|g| *g *= scale);
        }
    }
    let all = params.tensors_mut().into_iter().zip(grads.tensors());
    let moments = moments.m.tensors_mut().into_iter().zip(moments.v.tensors_mut());
    for (((name, p), (_, g)), ((_, m), (_, v))) in all.zip(moments) {
        let n = [p.len()];
        let options = &AdamW { lr: options.lr * scale_of(name), ..*options };
        adamw::step(
            p.view_mut().reshape(n),
            g.view().reshape(n),
            m.view_mut().reshape(n),
            v.view_mut().reshape(n),
            options,
        )?;
    }
    Ok(norm)
}
