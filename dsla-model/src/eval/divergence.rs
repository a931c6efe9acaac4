//! Divergence of hybrids from their teacher, over all places and by position.

use super::{ROWS, nll, values};
use crate::generate::PREFILL_CHUNK;
use crate::{Model, Plan, Result, Sequence, Step, Want};
use dsla_core::kernels::ops::kl_div;
use dsla_core::{DType, Tensor};

/// How far a hybrid is from its teacher.
#[derive(Clone, Debug)]
pub struct Divergence {
    /// Tokens compared.
    pub tokens: usize,
    /// Forward KL(teacher, hybrid), nats per token.
    pub kl: f64,
    /// Share of places where the arg max agrees.
    pub top1_agreement: f64,
    /// Perplexity of the teacher on the same tokens.
    pub teacher_ppl: f64,
    /// Perplexity of the hybrid on the same tokens.
    pub ppl: f64,
    /// KL by position in the window, in buckets of powers of two, from the start to the last that has tokens.
    pub by_position: Vec<PositionKl>,
}

/// KL of the places whose position in the window is `from..to`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PositionKl {
    /// First position, counted from 0.
    pub from: usize,
    /// Just after the last position.
    pub to: usize,
    /// Tokens compared.
    pub tokens: usize,
    /// Nats per token.
    pub kl: f64,
}

/// Both models side by side over each window; one teacher pass serves all `plans`. KL is over every position, the
/// perplexities over positions that have a next token.
pub fn divergence(
    model: &Model,
    plans: &[Plan],
    windows: &[&[u32]],
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Divergence>> {
    let mut side = SideBySide::new(model, plans.len());
    let exact = Plan::teacher(model.config().num_layers);
    for (i, w) in windows.iter().enumerate() {
        let mut teacher = model.new_sequence(&exact)?;
        let mut hybrids = plans.iter().map(|p| model.new_sequence(p)).collect::<Result<Vec<_>>>()?;
        side.walk(&mut teacher, &mut hybrids, w)?;
        progress(i + 1, windows.len());
    }
    Ok(side.finish())
}

/// A teacher and its hybrids on the same tokens, and the sums of what was seen.
pub(super) struct SideBySide<'a> {
    model: &'a Model,
    hybrids: Vec<Sums>,
    teacher_nll: f64,
    tokens: usize,
    /// Tokens that have a next one.
    scored: usize,
}

#[derive(Clone, Default)]
struct Sums {
    agree: usize,
    nll: f64,
    /// Tokens and KL per bucket of positions.
    kl: Vec<(usize, f64)>,
}

impl<'a> SideBySide<'a> {
    pub fn new(model: &'a Model, hybrids: usize) -> SideBySide<'a> {
        let hybrids = vec![Sums::default(); hybrids];
        SideBySide { model, hybrids, teacher_nll: 0.0, tokens: 0, scored: 0 }
    }

    /// Feed `tokens` to all sequences, in whatever state they are, and compare at every token. Positions count from
    /// the first of `tokens`.
    pub fn walk(&mut self, teacher: &mut Sequence, hybrids: &mut [Sequence], tokens: &[u32]) -> Result<()> {
        let model = self.model;
        for (c, chunk) in tokens.chunks(PREFILL_CHUNK).enumerate() {
            let run =
                |seq: &mut Sequence| model.hidden(&mut [Step { seq, tokens: chunk, logits: Want::All }]);
            let want = run(teacher)?;
            let got = hybrids.iter_mut().map(&run).collect::<Result<Vec<_>>>()?;
            for a in (0..chunk.len()).step_by(ROWS) {
                let b = (a + ROWS).min(chunk.len());
                let want = model.logits(want.rows(a, b))?;
                let first = c * PREFILL_CHUNK + a;
                let next = &tokens[(first + 1).min(tokens.len())..(first + 1 + b - a).min(tokens.len())];
                self.teacher_nll += nll(&want, next)?;
                self.scored += next.len();
                for (hidden, sums) in got.iter().zip(&mut self.hybrids) {
                    sums.add(&want, &model.logits(hidden.rows(a, b))?, first, next)?;
                }
            }
        }
        self.tokens += tokens.len();
        Ok(())
    }

    /// One result per hybrid.
    pub fn finish(self) -> Vec<Divergence> {
        let (n, s) = (self.tokens as f64, self.scored as f64);
        let result = |sums: &Sums| Divergence {
            tokens: self.tokens,
            kl: sums.kl.iter().map(|b| b.1).sum::<f64>() / n,
            top1_agreement: sums.agree as f64 / n,
            teacher_ppl: (self.teacher_nll / s).exp(),
            ppl: (sums.nll / s).exp(),
            by_position: sums.buckets(),
        };
        self.hybrids.iter().map(result).collect()
    }
}

impl Sums {
    /// Rows of logits of the teacher and of the hybrid, at positions from `first` on.
    fn add(&mut self, want: &Tensor, got: &Tensor, first: usize, next: &[u32]) -> Result<()> {
        let mut kl = Tensor::empty_on(got.device(), [got.dims()[0]], DType::F32)?;
        kl_div::forward(want.view(), got.view(), kl.view_mut())?;
        for (i, kl) in values(&kl)?.into_iter().enumerate() {
            let b = bucket(first + i);
            if b >= self.kl.len() {
                self.kl.resize(b + 1, (0, 0.0));
            }
            self.kl[b].0 += 1;
            self.kl[b].1 += kl;
        }
        self.agree += kl_div::agree(want.view(), got.view())?;
        self.nll += nll(got, next)?;
        Ok(())
    }

    fn buckets(&self) -> Vec<PositionKl> {
        let all = self.kl.iter().enumerate();
        all.map(|(b, &(tokens, kl))| PositionKl {
            from: (1 << b) >> 1,
            to: 1 << b,
            tokens,
            kl: kl / tokens.max(1) as f64,
        })
        .collect()
    }
}

/// 0 for position 0, else the b with 2^(b-1) <= position < 2^b.
fn bucket(position: usize) -> usize {
    (usize::BITS - position.leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_position_once() {
        let mut sums = Sums { kl: vec![(1, 0.0); 6], ..Sums::default() };
        sums.kl[5] = (4, 2.0);
        let b = sums.buckets();
        assert_eq!((b[0].from, b[0].to, b[5].from, b[5].to, b[5].kl), (0, 1, 16, 32, 0.5));
        for p in 0..32 {
            let here: Vec<usize> = (0..6).filter(|&i| (b[i].from..b[i].to).contains(&p)).collect();
            assert_eq!(here, [bucket(p)]);
        }
    }
}
