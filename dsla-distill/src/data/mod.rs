//! Text as tokens: the tail of every text is held out; what a step sees is a function of the seed and the step.

mod self_text;

pub use self_text::self_text;

use crate::{Error, Fnv, Result};
use dsla_kernels::case::Rng;
use dsla_model::Tokens;

/// Share of each text that is never trained on.
const HELD_OUT: f64 = 0.03;

/// Tokens to train on and tokens held out.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    texts: Vec<Text>,
}

/// One text: trained on up to `keep`, held out from there.
#[derive(Clone, Debug)]
struct Text {
    tokens: Tokens,
    keep: usize,
}

impl Text {
    fn train(&self) -> &[u32] {
        &self.tokens.get()[..self.keep]
    }

    fn held_out(&self) -> &[u32] {
        &self.tokens.get()[self.keep..]
    }
}

impl Corpus {
    /// Add one text's tokens.
    pub fn add(&mut self, tokens: impl Into<Tokens>) {
        let tokens = tokens.into();
        let len = tokens.get().len();
        self.texts.push(Text { tokens, keep: len - (len as f64 * HELD_OUT) as usize });
    }

    /// Tokens to train on.
    pub fn len(&self) -> usize {
        self.texts.iter().map(|t| t.keep).sum()
    }

    /// Identifies the tokens and their split.
    pub fn fingerprint(&self) -> String {
        let mut hash = Fnv::default();
        for t in self.texts.iter().map(Text::train).chain(self.texts.iter().map(Text::held_out)) {
            hash.extend(t.iter().copied().chain([u32::MAX]));
        }
        hash.to_string()
    }

    /// No tokens to train on.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sequences of step `step`: about `batch_tokens` tokens in sequences of one length drawn from `lengths`. All
    /// steps of one length together walk over the texts, cut into windows of it, in shuffled order: every window once
    /// per epoch, the cuts elsewhere in the next.
    ///
    /// Errors: no text as long as the shortest of `lengths`.
    pub fn batch(&self, seed: u64, step: u64, batch_tokens: usize, lengths: &[usize]) -> Result<Vec<&[u32]>> {
        let longest = self.texts.iter().map(|t| t.keep).max().unwrap_or(0);
        let fits: Vec<usize> = lengths.iter().copied().filter(|&l| l <= longest).collect();
        if fits.is_empty() {
            let got = format!("{longest} tokens in the longest text");
            return Err(Error::Argument {
                arg: "text",
                got,
                want: format!("at least one sequence of {:?} tokens", lengths.iter().min()),
            });
        }
        let drawn = |step: u64| {
            let mut rng = Rng::new(seed ^ step.wrapping_mul(0xD134_2543_DE82_EF95));
            fits[rng.bits() as usize % fits.len()]
        };
        let len = drawn(step);
        let count = (batch_tokens / len).max(1);
        // Windows that earlier steps of this length took.
        let before = (0..step.min(1 << 24)).filter(|&s| drawn(s) == len).count() * count;
        let mut epoch = Epoch::new(self, seed, len, 0);
        let mut first = 0;
        Ok((before..before + count)
            .map(|n| {
                while n - first >= epoch.windows.len() {
                    first += epoch.windows.len();
                    epoch = Epoch::new(self, seed, len, epoch.number + 1);
                }
                let (text, at) = epoch.windows[n - first];
                &self.texts[text].train()[at..at + len]
            })
            .collect())
    }

    /// `count` windows of `context` held-out tokens, taken from all texts in turn.
    pub fn held_out(&self, context: usize, count: usize) -> Result<Vec<&[u32]>> {
        let mut windows = vec![];
        let mut round = 0;
        while windows.len() < count {
            let before = windows.len();
            for t in self.texts.iter().map(Text::held_out) {
                if windows.len() < count && t.len() >= (round + 1) * context {
                    windows.push(&t[round * context..(round + 1) * context]);
                }
            }
            if windows.len() == before {
                break;
            }
            round += 1;
        }
        if windows.is_empty() {
            let longest = self.texts.iter().map(|t| t.held_out().len()).max().unwrap_or(0);
            let got = format!("{longest} held-out tokens in the longest text");
            return Err(Error::Argument {
                arg: "text",
                got,
                want: format!("at least one window of {context} (3% of each text is held out)"),
            });
        }
        Ok(windows)
    }
}

/// One pass over all windows of a length, shuffled: (text, place).
struct Epoch {
    number: u64,
    windows: Vec<(usize, usize)>,
}

impl Epoch {
    fn new(corpus: &Corpus, seed: u64, len: usize, number: u64) -> Epoch {
        let mut rng = Rng::new(seed ^ (len as u64) << 32 ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut windows = vec![];
        for (i, text) in corpus.texts.iter().enumerate().filter(|(_, t)| t.keep >= len) {
            // The first cut may be anywhere that still leaves a window.
            let offset = rng.bits() as usize % len.min(text.keep - len + 1);
            windows.extend((offset..=text.keep - len).step_by(len).map(|at| (i, at)));
        }
        for i in (1..windows.len()).rev() {
            windows.swap(i, (rng.bits() % (i as u64 + 1)) as usize);
        }
        Epoch { number, windows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_repeat_and_stay_clear_of_held_out_text() {
        let mut c = Corpus::default();
        c.add((0..10_000).collect::<Vec<u32>>());
        c.add((20_000..20_400).collect::<Vec<u32>>());
        for step in 0..200 {
            let a = c.batch(7, step, 256, &[64, 128, 5000]).unwrap();
            assert_eq!(a, c.batch(7, step, 256, &[64, 128, 5000]).unwrap());
            assert!(a.iter().all(|s| s.iter().all(|&t| t < 9_700 || (20_000..20_388).contains(&t))));
        }
        assert_ne!(c.batch(7, 0, 256, &[64]).unwrap(), c.batch(8, 0, 256, &[64]).unwrap());
        assert_eq!(c.held_out(100, 5).unwrap().len(), 3);
        assert!(c.held_out(1000, 1).is_err());
        assert!(Corpus::default().batch(0, 0, 10, &[5]).is_err());
    }

    #[test]
    fn an_epoch_sees_every_window_once_and_the_next_cuts_elsewhere() {
        let mut c = Corpus::default();
        c.add((0..10_000).collect::<Vec<u32>>());
        let starts = |steps: std::ops::Range<u64>| -> Vec<u32> {
            steps.flat_map(|s| c.batch(3, s, 256, &[64]).unwrap()).map(|w| w[0]).collect()
        };
        // 9,700 tokens to train on are 151 windows of 64, or 150 where the first cut is late.
        let mut first = starts(0..37);
        assert_eq!(first.len(), 148);
        assert!(first.windows(2).any(|w| w[0] > w[1]), "in order");
        first.sort();
        first.dedup();
        assert_eq!(first.len(), 148, "a window came twice within an epoch");
        assert!(first.windows(2).all(|w| (w[1] - w[0]) % 64 == 0));
        let later = starts(38..70);
        assert!(later.iter().any(|s| s % 64 != first[0] % 64), "the second epoch cuts where the first did");
    }
}
