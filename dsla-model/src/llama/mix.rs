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
    /// The steps' attention in layer `l`, of its normalised input h [T, C]: [T, H D]. Steps that are not `read` only take their
    /// tokens in: nothing is in their rows.
    pub(super) fn mix(
        &self,
        l: usize,
        steps: &mut [Step],
        h: Tensor,
        read: impl Fn(&Step) -> bool + Sync,
    ) -> Result<Tensor> {
        let layer = &self.base.layers[l];
        let (total, width) = (h.dims()[0], self.config().num_heads * self.config().head_dim);
        let mut x = Projected::of(&layer.qkv, h.view(), self.heads(), None)?;
        let hidden = match self.mixers.get(l) {
            Some(Some(dsla)) if dsla.form.reads_hidden() => Some(h),
            _ => None,
        };
        if let [s] = steps {
            x.hidden = hidden;
            return match read(s) {
                true => Ok(self.attend(l, s.seq, x)?.reshape([total, width])),
                false => self
                    .take_in(l, s.seq, x)
                    .and_then(|()| Ok(Tensor::empty_on(self.device(), [total, width], layer.o.reads())?)),
            };
        }
        let part = |from: usize, to: usize| -> Result<Projected> {
            let hidden = hidden.as_ref().map(|h| h.rows(from, to).to_tensor()).transpose()?;
            Ok(Projected { hidden, ..x.rows(from, to)? })
        };
        let mut all = Tensor::empty_on(self.device(), [total, width], layer.o.reads())?;
        let mut at = 0;
        // Single tokens of enough converted sequences: each on a thread by itself, which waits for no other, for they take
        // microseconds. A cache is read by all threads.
        let small = |s: &&Step| s.tokens.len() == 1 && matches!(s.seq.layers[l], LayerState::Dsla(_));
        let many = self.device() == Device::Cpu && steps.iter().filter(small).count() >= par::threads();
        let apart = |s: &Step| many && small(&s);
        for s in steps.iter_mut() {
            let end = at + s.tokens.len();
            if !read(s) {
                self.take_in(l, s.seq, part(at, end)?)?;
            } else if !apart(s) {
                let out = self.attend(l, s.seq, part(at, end)?)?;
                copy::cast(out.reshape([end - at, width]).view(), all.view_mut().rows(at, end))?;
            }
            at = end;
        }
        let mut at = 0;
        let firsts = Tensor::ids(steps.len(), steps.iter().map(|s| (at, at += s.tokens.len()).0 as u32));
        let done = Mutex::new((&mut all, Ok(())));
        par::for_each_chunk(steps, 1, |i, s| {
            for s in s.iter_mut().filter(|s| apart(s) && read(s)) {
                let row = firsts.u32()[i] as usize;
                let out = part(row, row + 1).and_then(|x| self.attend(l, s.seq, x));
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                let put = |out: Tensor, all: &mut Tensor| {
                    copy::cast(out.reshape([1, width]).view(), all.view_mut().rows(row, row + 1))
                };
                if let Err(e) = out.and_then(|out| Ok(put(out, done.0)?)) {
                    done.1 = Err(e);
                }
            }
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner).1?;
        Ok(all)
    }

    /// Attention of one sequence's new tokens in layer `l`: [T, H, D].
    fn attend(&self, l: usize, seq: &mut Sequence, x: Projected) -> Result<Tensor> {
        let table = &self.base.table;
        Ok(match &mut seq.layers[l] {
            LayerState::Softmax(cache) => softmax_attention(x, table, cache)?,
            LayerState::Pages(cache) => softmax_attention_pages(x, table, cache)?,
            LayerState::Dsla(state) => {
                // (Several tokens; a single one's output is read by fewer than rounding it takes.)
                let rounded = self.device() == Device::Cpu && x.len() > 1;
                let dtype = if rounded { self.base.layers[l].o.reads() } else { DType::F32 };
                self.dsla(l)?.forward(x, table, state, dtype)?
            }
        })
    }

    /// [`Model::attend`] of tokens whose outputs nobody reads.
    fn take_in(&self, l: usize, seq: &mut Sequence, mut x: Projected) -> Result<()> {
        let table = &self.base.table;
        match &mut seq.layers[l] {
            LayerState::Softmax(cache) => cache.take_in(&x, table)?,
            LayerState::Pages(cache) => cache.take_in(&mut x, table)?,
            LayerState::Dsla(state) => self.dsla(l)?.take_in(x, table, state)?,
        }
        Ok(())
    }

    /// Where layer `l` of a sequence is converted and changes the output projection, add that to its rows of x.
    /// `rows`: how many each has.
    pub(super) fn adapt_o(
        &self,
        l: usize,
        steps: &[Step],
        rows: impl Fn(&Step) -> usize,
        mixed: &Tensor,
        x: &mut Tensor,
    ) -> Result<()> {
        let (mut first, mut at) = (0, 0);
        let converted = |s: &Step| matches!(s.seq.layers[l], LayerState::Dsla(_));
        // Sequences side by side that are converted: all their rows at once, which have the bits of each alone.
        for (i, s) in steps.iter().enumerate() {
            at += rows(s);
            if !converted(s) {
                first = at;
            } else if !steps.get(i + 1).is_some_and(converted) {
                self.dsla(l)?.adapt_o(mixed.rows(first, at), x.view_mut().rows(first, at))?;
            }
        }
        Ok(())
    }
}
