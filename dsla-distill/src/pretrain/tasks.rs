//! Associative recall as sequences of tokens with questions in them.
//!
//! A sequence is slots of two tokens. A slot binds (key, value), asks (question, key), or fills. The answer to a
//! question is predicted at the question's key and does not appear in the sequence, so that no answer can be copied from
//! an earlier one. Distances between a binding and its question are spread over powers of two: each bin is as likely as
//! the next, as far as the sequence has room.

use crate::{Error, Result};
use dsla_kernels::case::Rng;

/// Between slots that matter.
const FILL: u32 = 0;
/// Question tokens, in the order of [`Ask`].
const QUESTIONS: u32 = 1;
/// The first key.
const KEYS: u32 = 3;
/// Tries to place one key.
const TRIES: usize = 64;

/// What to recall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Multi-query associative recall (Arora et al. 2023, "Zoology"): every key is bound once.
    Mqar,
    /// Every key is bound twice, to different values; a question asks for the latest value or for the first.
    Forgetting,
}

impl std::str::FromStr for Task {
    type Err = Error;

    fn from_str(s: &str) -> Result<Task> {
        match s {
            "mqar" => Ok(Task::Mqar),
            "forgetting" => Ok(Task::Forgetting),
            _ => Err(Error::Argument { arg: "task", got: s.into(), want: "mqar or forgetting".into() }),
        }
    }
}

impl Task {
    /// The questions it asks.
    pub fn asks(self) -> &'static [Ask] {
        match self {
            Task::Mqar => &[Ask::Latest],
            Task::Forgetting => &[Ask::Latest, Ask::First],
        }
    }
}

/// Which of a key's values a question wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// The last one before the question; the only one where keys are bound once.
    Latest,
    /// The first one in the sequence.
    First,
}

/// One question of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Position of the question's key: the logits there should say `answer`.
    pub at: usize,
    /// The value wanted.
    pub answer: u32,
    /// Tokens from that value to `at`.
    pub distance: usize,
    /// Which value.
    pub ask: Ask,
}

/// A sequence and its questions, by position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The sequence.
    pub tokens: Vec<u32>,
    /// Sorted by `at`.
    pub queries: Vec<Query>,
}

/// Sizes of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Vocabulary {
    /// Different keys.
    pub keys: usize,
    /// Different values.
    pub values: usize,
}

impl Vocabulary {
    /// Token ids in all.
    pub fn len(&self) -> usize {
        KEYS as usize + self.keys + self.values
    }

    /// No tokens: never.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// Bin of a distance: n for [2^n, 2^(n+1)).
pub fn bin(distance: usize) -> usize {
    (usize::BITS - 1 - distance.max(1).leading_zeros()) as usize
}

/// One sequence of `length` tokens (even) with up to `pairs` keys, a function of the seed. Keys that find no free slots
/// are left out; slots that nothing needs are filled.
///
/// Errors: a length that is odd or below 16, no keys, fewer than two values.
pub fn example(task: Task, vocab: Vocabulary, length: usize, pairs: usize, seed: u64) -> Result<Example> {
    if length < 16 || !length.is_multiple_of(2) {
        return Err(Error::Argument {
            arg: "length",
            got: length.to_string(),
            want: "an even number of tokens, 16 or more".into(),
        });
    }
    if pairs == 0 || vocab.keys == 0 || vocab.values < 2 {
        let got = format!("{pairs} pairs, {} keys, {} values", vocab.keys, vocab.values);
        return Err(Error::Argument {
            arg: "task",
            got,
            want: "a pair, a key and two values at least".into(),
        });
    }
    let mut rng = Rng::new(seed ^ 0x7A5C_0000_0000_0001);
    let mut below = |n: usize| (rng.bits() % n as u64) as usize;
    let slots = length / 2;
    let mut tokens = vec![FILL; length];
    let mut queries = vec![];
    let mut taken = vec![false; slots];
    let mut keys: Vec<usize> = (0..vocab.keys).collect();
    for i in 0..pairs.min(vocab.keys) {
        keys.swap(i, i + below(vocab.keys - i));
        let key = KEYS + keys[i] as u32;
        let ask = task.asks()[below(task.asks().len())];
        let Some((bound, asked)) = (0..TRIES).find_map(|_| place(task, ask, slots, &taken, &mut below))
        else {
            continue;
        };
        // A second value is another one.
        let first = below(vocab.values);
        let values = [first, (first + 1 + below(vocab.values - 1)) % vocab.values];
        for (&slot, &value) in bound.iter().zip(&values) {
            taken[slot] = true;
            tokens[2 * slot] = key;
            tokens[2 * slot + 1] = KEYS + (vocab.keys + value) as u32;
        }
        taken[asked] = true;
        tokens[2 * asked] = QUESTIONS + ask as u32;
        tokens[2 * asked + 1] = key;
        let wanted = if ask == Ask::First { 0 } else { bound.len() - 1 };
        queries.push(Query {
            at: 2 * asked + 1,
            answer: KEYS + (vocab.keys + values[wanted]) as u32,
            distance: 2 * (asked - bound[wanted]),
            ask,
        });
    }
    queries.sort_by_key(|q| q.at);
    Ok(Example { tokens, queries })
}

/// Free slots for one key, in order of time: those that bind it and the one that asks.
fn place(
    task: Task,
    ask: Ask,
    slots: usize,
    taken: &[bool],
    below: &mut impl FnMut(usize) -> usize,
) -> Option<(Vec<usize>, usize)> {
    // A distance: a power of two first, so that all are as likely, then within it.
    let low = 1usize << below(usize::BITS as usize - (slots - 1).leading_zeros() as usize);
    let far = low + below(low.min(slots - low));
    let near = below(slots - far);
    let (bound, asked) = match (task, ask) {
        (Task::Mqar, _) => (vec![near], near + far),
        (Task::Forgetting, Ask::Latest) if near > 0 => (vec![below(near), near], near + far),
        (Task::Forgetting, Ask::First) if far > 1 => (vec![near, near + 1 + below(far - 1)], near + far),
        _ => return None,
    };
    let free = !taken[asked] && bound.iter().all(|&slot| !taken[slot]);
    free.then_some((bound, asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB: Vocabulary = Vocabulary { keys: 20, values: 12 };

    #[test]
    fn answers_are_what_the_sequence_says() {
        for task in [Task::Mqar, Task::Forgetting] {
            let mut bins = [0usize; 7];
            let mut asks = [0; 2];
            for seed in 0..300 {
                let e = example(task, VOCAB, 128, 12, seed).unwrap();
                assert_eq!(e, example(task, VOCAB, 128, 12, seed).unwrap());
                assert_eq!(e.tokens.len(), 128);
                assert!(e.tokens.iter().all(|&t| (t as usize) < VOCAB.len()));
                assert!(!e.queries.is_empty() && e.queries.windows(2).all(|w| w[0].at < w[1].at));
                for q in &e.queries {
                    let key = e.tokens[q.at];
                    // Read off the tokens alone: where the key is bound, in order.
                    let bound: Vec<usize> = (0..q.at).step_by(2).filter(|&i| e.tokens[i] == key).collect();
                    assert_eq!(bound.len(), if task == Task::Mqar { 1 } else { 2 });
                    let at = if q.ask == Ask::First { bound[0] } else { *bound.last().unwrap() };
                    assert_eq!(e.tokens[at + 1], q.answer);
                    assert_eq!(q.at - (at + 1), q.distance);
                    assert_eq!(e.tokens[q.at - 1], QUESTIONS + q.ask as u32);
                    if let [a, b] = bound[..] {
                        assert_ne!(e.tokens[a + 1], e.tokens[b + 1]);
                    }
                    bins[bin(q.distance)] += 1;
                    asks[q.ask as usize] += 1;
                }
            }
            let total: usize = bins.iter().sum();
            assert!(bins[1..].iter().all(|&n| n * 25 > total), "{task:?}: {bins:?}");
            assert_eq!(asks[1] > 0, task == Task::Forgetting);
            assert_ne!(example(task, VOCAB, 128, 12, 1).unwrap(), example(task, VOCAB, 128, 12, 2).unwrap());
        }
    }

    #[test]
    fn bad_sizes_are_one_line() {
        for (length, pairs, values) in [(15, 3, 4), (8, 3, 4), (32, 0, 4), (32, 3, 1)] {
            let e = example(Task::Mqar, Vocabulary { keys: 4, values }, length, pairs, 0)
                .unwrap_err()
                .to_string();
            assert!(e.contains("got") && e.contains("want") && !e.contains('\n'), "{e}");
        }
        assert!("zoology".parse::<Task>().unwrap_err().to_string().contains("mqar or forgetting"));
    }
}
