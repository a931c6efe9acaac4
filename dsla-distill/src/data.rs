//! Text as tokens: the tail of every text is held out; what a step sees is a function of the seed and the step.

use crate::{Error, Result};
use dsla_kernels::case::Rng;

/// Share of each text that is never trained on.
const HELD_OUT: f64 = 0.03;

/// Tokens to train on and tokens held out.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    texts: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
}

impl Corpus {
    /// Add one text's tokens.
    pub fn add(&mut self, mut tokens: Vec<u32>) {
        let keep = tokens.len() - (tokens.len() as f64 * HELD_OUT) as usize;
        self.held_out.push(tokens.split_off(keep));
        self.texts.push(tokens);
    }

    /// Tokens to train on.
    pub fn len(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }

    /// Identifies the tokens and their split (FNV-1a).
    pub fn fingerprint(&self) -> String {
        let mut h = 0xcbf2_9ce4_8422_2325u64;
        for t in self.texts.iter().chain(&self.held_out) {
            for v in t.iter().chain([&u32::MAX]) {
                h = (h ^ *v as u64).wrapping_mul(0x100_0000_01b3);
            }
        }
        format!("{h:016x}")
    }

    /// No tokens to train on.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sequences of step `step`: about `batch_tokens` tokens in sequences of one length drawn from `lengths`,
    /// each from a random place in a text drawn by its size.
    pub fn batch(&self, seed: u64, step: u64, batch_tokens: usize, lengths: &[usize]) -> Result<Vec<&[u32]>> {
        let mut rng = Rng::new(seed ^ step.wrapping_mul(0xD134_2543_DE82_EF95));
        let longest = self.texts.iter().map(Vec::len).max().unwrap_or(0);
        let fits: Vec<usize> = lengths.iter().copied().filter(|&l| l <= longest).collect();
        if fits.is_empty() {
            let got = format!("{longest} tokens in the longest text");
            return Err(Error::Argument {
                arg: "text",
                got,
                want: format!("at least one sequence of {:?} tokens", lengths.iter().min()),
            });
        }
        let len = fits[rng.bits() as usize % fits.len()];
        let usable: Vec<&Vec<u32>> = self.texts.iter().filter(|t| t.len() >= len).collect();
        let places: usize = usable.iter().map(|t| t.len() - len + 1).sum();
        let count = (batch_tokens / len).max(1);
        Ok((0..count)
            .map(|_| {
                let mut at = (rng.bits() % places as u64) as usize;
                for t in &usable {
                    let here = t.len() - len + 1;
                    if at < here {
                        return &t[at..at + len];
                    }
                    at -= here;
                }
                unreachable!("a place below the number of places")
            })
            .collect())
    }

    /// `count` windows of `context` held-out tokens, taken from all texts in turn.
    pub fn held_out(&self, context: usize, count: usize) -> Result<Vec<&[u32]>> {
        let mut windows = vec![];
        let mut round = 0;
        while windows.len() < count {
            let before = windows.len();
            for t in &self.held_out {
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
            let longest = self.held_out.iter().map(Vec::len).max().unwrap_or(0);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_repeat_and_stay_clear_of_held_out_text() {
        let mut c = Corpus::default();
        c.add((0..10_000).collect());
        c.add((20_000..20_400).collect());
        for step in 0..200 {
            let a = c.batch(7, step, 256, &[64, 128, 5000]).unwrap();
            assert_eq!(a, c.batch(7, step, 256, &[64, 128, 5000]).unwrap());
            assert!(a.iter().all(|s| s.iter().all(|&t| t < 9_700 || (20_000..20_388).contains(&t))));
        }
        assert_ne!(c.batch(7, 0, 256, &[64]).unwrap(), c.batch(7, 1, 256, &[64]).unwrap());
        assert_eq!(c.held_out(100, 5).unwrap().len(), 3);
        assert!(c.held_out(1000, 1).is_err());
        assert!(Corpus::default().batch(0, 0, 10, &[5]).is_err());
    }
}
