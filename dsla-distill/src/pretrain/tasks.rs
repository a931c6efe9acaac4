//! Associative recall as sequences of tokens with questions in them.
//!
//! A sequence is slots. A slot binds a value to a key, asks for a key's value, or fills. The answer to a question is
//! predicted at the end of its slot and does not appear in the sequence, so that no answer can be copied from an earlier
//! one. Distances between a binding and its question are spread over powers of two: each bin is as likely as the next,
//! as far as the sequence has room.
//!
//! A slot is two tokens, (key, value) or (question, key), as in the literature: a layer must then first look one token
//! back. Or it is one [fused](Vocabulary::fused) token, and recall alone is what is learned and measured.

use crate::{Error, Result};
use dsla_kernels::case::Rng;

/// In slots that nothing needs.
const FILL: u32 = 0;
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

/// Token ids of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Vocabulary {
    /// Different keys.
    pub keys: usize,
    /// Different values.
    pub values: usize,
    /// One token per slot: an id per (key, value) and per (question, key).
    pub fused: bool,
}

impl Vocabulary {
    /// Tokens per slot.
    pub fn width(&self) -> usize {
        if self.fused { 1 } else { 2 }
    }

    /// Token ids in all: the filler, questions, keys (fused: their product), values, and fused bindings.
    pub fn size(&self) -> usize {
        match self.fused {
            true => 1 + 2 * self.keys + self.values + self.keys * self.values,
            false => 3 + self.keys + self.values,
        }
    }

    fn value(&self, value: usize) -> u32 {
        (if self.fused { 1 + 2 * self.keys + value } else { 3 + self.keys + value }) as u32
    }

    fn question(&self, ask: Ask, key: usize) -> Vec<u32> {
        match self.fused {
            true => vec![(1 + ask as usize * self.keys + key) as u32],
            false => vec![1 + ask as u32, (3 + key) as u32],
        }
    }

    fn binding(&self, key: usize, value: usize) -> Vec<u32> {
        match self.fused {
            true => vec![(1 + 2 * self.keys + self.values + key * self.values + value) as u32],
            false => vec![(3 + key) as u32, self.value(value)],
        }
    }
}

/// Bin of a distance: n for [2^n, 2^(n+1)).
pub fn bin(distance: usize) -> usize {
    (usize::BITS - 1 - distance.max(1).leading_zeros()) as usize
}

/// One sequence of `length` tokens (even) with up to `pairs` keys, a function of the seed. Every key is asked once, and
/// again in the slots that are left; keys that find no free slots are left out.
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
    let slots = length / vocab.width();
    let mut board = Board {
        vocab,
        tokens: vec![FILL; length],
        bound: vec![None; slots],
        taken: vec![false; slots],
        queries: vec![],
    };
    let mut keys: Vec<usize> = (0..vocab.keys).collect();
    for i in 0..pairs.min(vocab.keys) {
        keys.swap(i, i + below(vocab.keys - i));
        let key = keys[i];
        let ask = task.asks()[below(task.asks().len())];
        let Some((at, asked)) = (0..TRIES).find_map(|_| place(task, ask, slots, &board.taken, &mut below))
        else {
            continue;
        };
        // A second value is another one.
        let first = below(vocab.values);
        let values = [first, (first + 1 + below(vocab.values - 1)) % vocab.values];
        for (which, &slot) in at.iter().enumerate() {
            let last = *at.last().unwrap_or(&slot);
            board.bind(
                slot,
                Bound { key, value: values[which], first: which == 0, last: slot == last, complete: last },
            );
        }
        let wanted = if ask == Ask::First { 0 } else { at.len() - 1 };
        board.ask(asked, at[wanted], ask);
    }
    // Whatever is free asks again, where a draw of kind and distance meets a binding.
    for slot in 1..slots {
        if board.taken[slot] {
            continue;
        }
        let found = (0..TRIES).find_map(|_| {
            let ask = task.asks()[below(task.asks().len())];
            let at = slot.checked_sub(distance(slot + 1, &mut below))?;
            let bound = board.bound[at].as_ref()?;
            let wanted = if ask == Ask::First { bound.first } else { bound.last };
            (wanted && bound.complete < slot).then_some((at, ask))
        });
        if let Some((at, ask)) = found {
            board.ask(slot, at, ask);
        }
    }
    board.queries.sort_by_key(|q| q.at);
    Ok(Example { tokens: board.tokens, queries: board.queries })
}

/// What a slot binds.
#[derive(Clone, Copy)]
struct Bound {
    key: usize,
    value: usize,
    /// Whether it is the key's first binding, and its last.
    first: bool,
    last: bool,
    /// The slot of the key's last binding: questions come after it.
    complete: usize,
}

/// A sequence while it is put together.
struct Board {
    vocab: Vocabulary,
    tokens: Vec<u32>,
    bound: Vec<Option<Bound>>,
    taken: Vec<bool>,
    queries: Vec<Query>,
}

impl Board {
    fn put(&mut self, slot: usize, tokens: &[u32]) {
        let at = slot * tokens.len();
        self.tokens[at..at + tokens.len()].copy_from_slice(tokens);
        self.taken[slot] = true;
    }

    fn bind(&mut self, slot: usize, what: Bound) {
        self.put(slot, &self.vocab.binding(what.key, what.value));
        self.bound[slot] = Some(what);
    }

    /// Ask in `slot` for what slot `at` binds.
    fn ask(&mut self, slot: usize, at: usize, ask: Ask) {
        let Some(bound) = self.bound[at] else { return };
        self.put(slot, &self.vocab.question(ask, bound.key));
        let width = self.vocab.width();
        self.queries.push(Query {
            at: (slot + 1) * width - 1,
            answer: self.vocab.value(bound.value),
            distance: (slot - at) * width,
            ask,
        });
    }
}

/// A distance in slots, from 1 to `slots` - 1: a power of two first, so that all are as likely, then within it.
fn distance(slots: usize, below: &mut impl FnMut(usize) -> usize) -> usize {
    let low = 1usize << below(usize::BITS as usize - (slots - 1).leading_zeros() as usize);
    low + below(low.min(slots - low))
}

/// Free slots for one key, in order of time: those that bind it and the one that asks.
fn place(
    task: Task,
    ask: Ask,
    slots: usize,
    taken: &[bool],
    below: &mut impl FnMut(usize) -> usize,
) -> Option<(Vec<usize>, usize)> {
    let far = distance(slots, below);
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

    const TWO: Vocabulary = Vocabulary { keys: 20, values: 12, fused: false };

    /// What a slot says, read off its tokens: (key, value) of a binding, (question, key) of a question.
    enum Slot {
        Bind(u32, u32),
        Ask(u32, u32),
        Fill,
    }

    fn read(v: &Vocabulary, slot: &[u32]) -> Slot {
        let (k, n) = (v.keys as u32, v.values as u32);
        match *slot {
            [0] | [0, 0] => Slot::Fill,
            [t] if t <= 2 * k => Slot::Ask((t - 1) / k, (t - 1) % k),
            [t] => Slot::Bind((t - 1 - 2 * k - n) / n, (t - 1 - 2 * k - n) % n + 1 + 2 * k),
            [q, key] if q < 3 => Slot::Ask(q - 1, key - 3),
            [key, value] => Slot::Bind(key - 3, value),
            _ => unreachable!(),
        }
    }

    #[test]
    fn answers_are_what_the_sequence_says() {
        for (task, vocab) in [Task::Mqar, Task::Forgetting]
            .into_iter()
            .flat_map(|t| [(t, TWO), (t, Vocabulary { fused: true, ..TWO })])
        {
            let width = vocab.width();
            let mut bins = [0usize; 7];
            let mut asks = [0; 2];
            for seed in 0..200 {
                let e = example(task, vocab, 128, 12, seed).unwrap();
                assert_eq!(e, example(task, vocab, 128, 12, seed).unwrap());
                assert_eq!(e.tokens.len(), 128);
                assert!(e.tokens.iter().all(|&t| (t as usize) < vocab.size()));
                assert!(e.queries.windows(2).all(|w| w[0].at < w[1].at));
                let slots: Vec<Slot> = e.tokens.chunks(width).map(|s| read(&vocab, s)).collect();
                let mut queries = e.queries.iter();
                let mut bound: Vec<(u32, u32, usize)> = vec![];
                for (i, slot) in slots.iter().enumerate() {
                    match *slot {
                        Slot::Bind(key, value) => bound.push((key, value, i)),
                        Slot::Ask(question, key) => {
                            let q = queries.next().expect("a question without an answer");
                            let of: Vec<_> = bound.iter().filter(|b| b.0 == key).collect();
                            assert_eq!(of.len(), if task == Task::Mqar { 1 } else { 2 });
                            let wanted = if question == 1 { of[0] } else { of[of.len() - 1] };
                            assert_eq!((q.at, q.answer), ((i + 1) * width - 1, wanted.1));
                            assert_eq!((q.distance, q.ask as u32), ((i - wanted.2) * width, question));
                            assert!(of.len() == 1 || of[0].1 != of[1].1);
                            bins[bin(q.distance)] += 1;
                            asks[question as usize] += 1;
                        }
                        Slot::Fill => {}
                    }
                }
                assert!(queries.next().is_none());
            }
            let total: usize = bins.iter().sum();
            assert!(bins[width - 1..].iter().all(|&n| n * 25 > total), "{task:?}: {bins:?}");
            assert_eq!(asks[1] > 0, task == Task::Forgetting);
            assert_ne!(example(task, vocab, 128, 12, 1).unwrap(), example(task, vocab, 128, 12, 2).unwrap());
        }
    }

    #[test]
    fn bad_sizes_are_one_line() {
        for (length, pairs, values) in [(15, 3, 4), (8, 3, 4), (32, 0, 4), (32, 3, 1)] {
            let vocab = Vocabulary { keys: 4, values, fused: false };
            let e = example(Task::Mqar, vocab, length, pairs, 0).unwrap_err().to_string();
            assert!(e.contains("got") && e.contains("want") && !e.contains('\n'), "{e}");
        }
        assert!("zoology".parse::<Task>().unwrap_err().to_string().contains("mqar or forgetting"));
    }
}
