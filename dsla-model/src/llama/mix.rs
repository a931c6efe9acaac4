//! Attention of a step: sequences one after the other with all threads, or side by side.

use super::{Model, Step};
use crate::Result;
use crate::sequence::{LayerState, Sequence};
use dsla_core::attention::{softmax_attention, softmax_attention_pages};
use dsla_core::kernels::ops::copy;
use dsla_core::kernels::par;
use dsla_core::{DType, Device, Projected, Tensor};
use std::sync::{Mutex, PoisonError};

impl Model {
    /// The steps' attention in layer `l`, of its normalised input h [T, C] and projections qkv: [T, H D].
    pub(super) fn mix(&self, l: usize, steps: &mut [Step], h: &Tensor, qkv: &Tensor) -> Result<Tensor> {
        let (total, width) = (h.dims()[0], self.config().num_heads * self.config().head_dim);
        if let [s] = steps {
            return Ok(self.attend(l, s.seq, h.view(), qkv.view())?.reshape([total, width]));
        }
        let mut all = Tensor::empty_on(self.device(), [total, width], DType::F32)?;
        let mut at = 0;
        // Single tokens of enough converted sequences: each on a thread by itself, which waits for no other, for they take
        // microseconds. A cache is read by all threads.
        let small = |s: &&Step| s.tokens.len() == 1 && matches!(s.seq.layers[l], LayerState::Dsla(_));
        let many = self.device() == Device::Cpu && steps.iter().filter(small).count() >= par::threads();
        let apart = |s: &Step| many && small(&s);
        for s in steps.iter_mut() {
            let end = at + s.tokens.len();
            if !apart(s) {
                let out = self.attend(l, s.seq, h.rows(at, end), qkv.rows(at, end))?;
                copy::cast(out.reshape([end - at, width]).view(), all.view_mut().rows(at, end))?;
            }
            at = end;
        }
        let mut at = 0;
        let firsts = Tensor::ids(steps.len(), steps.iter().map(|s| (at, at += s.tokens.len()).0 as u32));
        let done = Mutex::new((&mut all, Ok(())));
        par::for_each_chunk(steps, 1, |i, s| {
            for s in s.iter_mut().filter(|s| apart(s)) {
                let row = firsts.u32()[i] as usize;
                let out = self.attend(l, s.seq, h.rows(row, row + 1), qkv.rows(row, row + 1));
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                match out {
                    Ok(out) => done.0.f32_mut()[row * width..][..width].copy_from_slice(out.f32()),
                    Err(e) => done.1 = Err(e),
                }
            }
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner).1?;
        Ok(all)
    }

    /// Attention of one sequence's new tokens in layer `l`: [T, H, D].
    fn attend(
        &self,
        l: usize,
        seq: &mut Sequence,
        h: dsla_core::View,
        qkv: dsla_core::View,
    ) -> Result<Tensor> {
        let (heads, table) = (self.heads(), &self.base.table);
        Ok(match &mut seq.layers[l] {
            LayerState::Softmax(cache) => {
                softmax_attention(Projected::split(qkv, heads, None)?, table, cache)?
            }
            LayerState::Pages(cache) => {
                softmax_attention_pages(Projected::split(qkv, heads, None)?, table, cache)?
            }
            LayerState::Dsla(state) => {
                let dsla = self.dsla(l)?;
                let hidden = dsla.form.reads_hidden().then(|| h.to_tensor()).transpose()?;
                dsla.forward(Projected::split(qkv, heads, hidden)?, table, state)?
            }
        })
    }

    /// Where layer `l` of a sequence is converted and changes the output projection, add that to its rows of x.
    pub(super) fn adapt_o(&self, l: usize, steps: &[Step], mixed: &Tensor, x: &mut Tensor) -> Result<()> {
        let (mut first, mut at) = (0, 0);
        let converted = |s: &Step| matches!(s.seq.layers[l], LayerState::Dsla(_));
        // Sequences side by side that are converted: all their rows at once, which have the bits of each alone.
        for (i, s) in steps.iter().enumerate() {
            at += s.tokens.len();
            if !converted(s) {
                first = at;
            } else if !steps.get(i + 1).is_some_and(converted) {
                self.dsla(l)?.adapt_o(mixed.rows(first, at), x.view_mut().rows(first, at))?;
            }
        }
        Ok(())
    }
}
