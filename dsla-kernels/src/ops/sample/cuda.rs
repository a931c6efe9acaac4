//! Launches of the PTX kernels.

use super::{OP, Params, unfit, uniform};
use crate::cuda::tiles::rows;
use crate::cuda::{Source, launch};
use crate::{DType::F32, DType::U32, Device, Result, Slice, Tensor, View};

static SAMPLE: Source = Source::new("sample", rows!("sample.ptx"), &[("V", &["1"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&SAMPLE];

const THREADS: usize = 512;

/// One id per row.
pub fn forward(logits: View, params: &[Params], indices: &[u64], [b, v]: [usize; 2]) -> Result<Vec<u32>> {
    let mut words = Vec::with_capacity(8 * b);
    let mut filtered = false;
    for (p, &index) in params.iter().zip(indices) {
        let top_k = if p.top_k < v { p.top_k as u32 } else { 0 };
        filtered |= top_k > 0 || p.top_p < 1.0;
        let u = uniform(p.seed, index).to_bits();
        let floats = [p.temperature, p.top_p, p.min_p].map(f32::to_bits);
        words.extend([floats[0], top_k, floats[1], floats[2], u as u32, (u >> 32) as u32, 0, 0]);
    }
    let params = Tensor::from_u32([b, 8], words).to_device(logits.device())?;
    let mut ids = Tensor::empty_on(logits.device(), [b], U32)?;
    launch(OP, logits.device(), &SAMPLE, &["1"], "sample")?
        .input_aligned("logits", logits, F32, &[b, v], 4)
        .input("params", params.view(), U32, &[b, 8])
        .output("ids", &mut ids.view_mut(), U32, &[b])
        .u32("v", v)
        .run(b, THREADS, if filtered { 16 * 8 * THREADS } else { 0 })?;
    match ids.to_device(Device::Cpu)?.view().slice() {
        Slice::U32(ids) if !ids.contains(&u32::MAX) => Ok(ids.to_vec()),
        _ => Err(unfit()),
    }
}
