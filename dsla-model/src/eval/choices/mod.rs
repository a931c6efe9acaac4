//! Multiple choice by likelihood, as EleutherAI's lm-evaluation-harness 0.4 scores it (`api/task.py`, `api/model.py`).

mod layout;

use super::fold::take_in;
use super::jsonl::{self, Row};
use super::nll;
use crate::{Model, Plan, Result, Step, Tokenizer, Want};
use std::path::Path;

/// A question with its choices, each a context and how it may go on.
pub struct Question {
    row: Row,
    /// The same context for all, or (WinoGrande) one each with the same ending.
    pub choices: Vec<Choice>,
    /// The right one.
    pub gold: usize,
}

/// One way to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What comes before.
    pub context: String,
    /// What is scored, its leading space included.
    pub continuation: String,
    /// The choice as the file has it: its length normalises.
    pub text: String,
}

/// Shares of questions whose right choice scores best; of equals the first wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChoiceScores {
    /// By log likelihood.
    pub acc: f64,
    /// By log likelihood per character of the choice (lm-eval's acc_norm).
    pub acc_norm: f64,
    /// By log likelihood per byte of the choice (lm-eval's acc_bytes): the same for ASCII.
    pub acc_bytes: f64,
    /// What guessing gives.
    pub chance: f64,
    /// Questions.
    pub count: usize,
}

/// Questions from JSON Lines: rows {"context", "choices", "gold"}, or exports of PIQA, ARC, HellaSwag and WinoGrande as
/// they come from the Hugging Face hub, put into lm-eval's words.
///
/// Errors: an unreadable file, or a row that is none of these, by line and field.
pub fn read_questions(file: &Path) -> Result<Vec<Question>> {
    jsonl::rows(file)?.into_iter().map(layout::question).collect()
}

/// Score all questions. What choices share of their tokens is prefilled once; each choice goes on from a copy.
/// `progress` sees (questions done, questions).
///
/// Errors: a choice without tokens, or one that does not fit the model's positions, by line; found before anything runs.
pub fn choices(
    model: &Model,
    plan: &Plan,
    questions: &[Question],
    mut progress: impl FnMut(usize, usize),
) -> Result<ChoiceScores> {
    let tokenizer = model.tokenizer()?;
    let encoded = questions
        .iter()
        .map(|q| encode(q, tokenizer, model.table().positions()))
        .collect::<Result<Vec<_>>>()?;
    let (mut hits, mut chance) = ([0usize; 3], 0.0);
    for (i, (q, tokens)) in questions.iter().zip(&encoded).enumerate() {
        let scores = log_likelihoods(model, plan, tokens)?;
        let by: [fn(&Choice) -> usize; 3] = [|_| 1, |c| c.text.chars().count(), |c| c.text.len()];
        for (hits, length) in hits.iter_mut().zip(by) {
            let per = scores.iter().zip(&q.choices).map(|(s, c)| s / length(c).max(1) as f64);
            *hits += (best(per) == q.gold) as usize;
        }
        chance += 1.0 / q.choices.len() as f64;
        progress(i + 1, questions.len());
    }
    let share = |n: f64| n / questions.len().max(1) as f64;
    let [acc, acc_norm, acc_bytes] = hits.map(|h| share(h as f64));
    Ok(ChoiceScores { acc, acc_norm, acc_bytes, chance: share(chance), count: questions.len() })
}

/// A choice as tokens.
struct Encoded {
    tokens: Vec<u32>,
    /// How many of them are context.
    context: usize,
}

/// Context and continuation are encoded together and split where the context alone would end; spaces at the context's
/// end belong to the continuation; an empty context is the token that begins a text (or ends one), as in lm-eval.
fn encode(q: &Question, tokenizer: &Tokenizer, room: usize) -> Result<Vec<Encoded>> {
    let one = |c: &Choice| {
        let context = c.context.trim_end();
        let whole = format!("{}{}", c.context, c.continuation);
        let (mut tokens, mut n) = (tokenizer.encode(&whole, false)?, tokenizer.encode(context, false)?.len());
        if n == 0 {
            let start = tokenizer.bos().or(tokenizer.eos().first().copied());
            let start =
                start.ok_or_else(|| q.row.refuse("", "no context", "one: this model has no begin token"))?;
            tokens.insert(0, start);
            n = 1;
        }
        if tokens.len() <= n {
            return Err(q.row.refuse("", "a choice without tokens", "text to score"));
        }
        if tokens.len() > room + 1 {
            let got = format!("{} tokens", tokens.len());
            return Err(q.row.refuse("", &got, &format!("at most the model's {room}")));
        }
        Ok(Encoded { tokens, context: n })
    };
    q.choices.iter().map(one).collect()
}

/// Log likelihood of each continuation after its context, nats.
fn log_likelihoods(model: &Model, plan: &Plan, choices: &[Encoded]) -> Result<Vec<f64>> {
    let [first, rest @ ..] = choices else { return Ok(vec![]) };
    let same = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let shared = rest.iter().map(|c| same(&first.tokens, &c.tokens)).min().unwrap_or(first.context);
    // The last context token of each choice gives the logits of its first scored token, so it is not shared.
    let shared = choices.iter().map(|c| c.context - 1).min().map_or(0, |n| n.min(shared));
    let mut context = model.new_sequence(plan)?;
    take_in(model, &mut context, &first.tokens[..shared])?;
    let mut sequences = vec![context; choices.len()];
    // The last token is scored, never read.
    let inputs = |c: &'_ Encoded| shared..c.tokens.len() - 1;
    let mut steps: Vec<Step> = sequences
        .iter_mut()
        .zip(choices)
        .map(|(seq, c)| Step { seq, tokens: &c.tokens[inputs(c)], logits: Want::All })
        .collect();
    let hidden = model.hidden(&mut steps)?;
    let mut at = 0;
    choices
        .iter()
        .map(|c| {
            let (from, to) = (at + c.context - 1 - shared, at + inputs(c).len());
            at = to;
            Ok(-nll(&model.logits(hidden.rows(from, to))?, &c.tokens[c.context..])?)
        })
        .collect()
}

/// Index of the largest, the first of equals; 0 of none.
fn best(scores: impl Iterator<Item = f64>) -> usize {
    let start = (0, f64::NEG_INFINITY);
    scores.enumerate().fold(start, |best, (i, s)| if s > best.1 { (i, s) } else { best }).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_wins() {
        assert_eq!(best([-2.0, -1.0, -1.0].into_iter()), 1);
        assert_eq!(best(std::iter::empty()), 0);
    }
}
