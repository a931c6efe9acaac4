//! The teacher's own text as a source: what it writes from nothing, and the conversations it makes up (a question after the
//! template's user header, then its own answer; Xu et al. 2024, "Magpie"). No corpus is closer to what a served model sees.

use crate::Result;
use dsla_kernels::ops::sample::{self, Params};
use dsla_model::{Message, Model, Plan, Sequence, Step, Want};

/// Sequences written side by side: a step over sixteen costs little more than over one.
const BATCH: usize = 16;
/// Tokens of a document at most.
const LONGEST: usize = 1024;
/// Stands for the question while the template is taken apart.
const QUESTION: &str = "QUESTION-GOES-HERE";

/// One document under way.
struct Document {
    number: u64,
    seq: Sequence,
    tokens: Vec<u32>,
    /// Fed to the model before it may go on writing.
    pending: Vec<u32>,
    /// What follows the question it is writing; None where it writes freely or answers.
    after: Option<Vec<u32>>,
}

/// At least `tokens` tokens of the teacher's own text at temperature 1, documents one after the other in the order they
/// were begun; a function of the model and the seed. Half of the documents are conversations where the model has a chat
/// template. `progress` sees (tokens so far, tokens).
///
/// Errors: what the model refuses; a model without a tokenizer.
pub fn self_text(
    model: &Model,
    tokens: usize,
    seed: u64,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<u32>> {
    let tokenizer = model.tokenizer()?;
    let begin = tokenizer.bos().or(tokenizer.eos().first().copied()).unwrap_or(0);
    let end = tokenizer.eos().first().copied().unwrap_or(begin);
    let turns = match model.chat_template() {
        Ok(template) => {
            let text = template.render(&[Message::new("user", QUESTION)], true, None)?;
            match text.split_once(QUESTION) {
                Some((before, after)) => {
                    Some((tokenizer.encode(before, false)?, tokenizer.encode(after, false)?))
                }
                None => None,
            }
        }
        Err(_) => None,
    };
    let longest = LONGEST.min(model.table().positions());
    let start = |number: u64| -> Result<Document> {
        let seq = model.new_sequence(&Plan::teacher(model.config().num_layers))?;
        let (head, after) = match &turns {
            Some((before, after)) if number % 2 == 1 => (before.clone(), Some(after.clone())),
            _ => (vec![begin], None),
        };
        Ok(Document { number, seq, tokens: head.clone(), pending: head, after })
    };
    let mut next = 0;
    let mut done: Vec<(u64, Vec<u32>)> = vec![];
    let mut finished = 0;
    let mut live: Vec<Document> = vec![];
    while finished < tokens {
        while live.len() < BATCH {
            live.push(start(next)?);
            next += 1;
        }
        let fed: Vec<Vec<u32>> = live.iter_mut().map(|d| std::mem::take(&mut d.pending)).collect();
        let mut steps: Vec<Step> = live
            .iter_mut()
            .zip(&fed)
            .map(|(d, tokens)| Step { seq: &mut d.seq, tokens, logits: Want::Last })
            .collect();
        let logits = model.forward(&mut steps)?;
        let vocab = model.config().vocab_size;
        let mut i = 0;
        for row in 0..live.len() {
            let d = &mut live[i];
            let params =
                Params { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: seed ^ d.number << 20 };
            let row = logits.rows(row, row + 1).reshape([vocab]);
            let id = sample::forward(row, &params, d.tokens.len() as u64)?;
            let over = tokenizer.eos().contains(&id) || id == end;
            match (over, d.after.take()) {
                // The template closes the question itself.
                (true, Some(after)) => {
                    d.tokens.extend(&after);
                    d.pending = after;
                }
                (_, after) => {
                    d.after = after;
                    d.tokens.push(id);
                    d.pending = vec![id];
                }
            }
            let answered = over && d.pending.len() == 1 && d.after.is_none();
            if answered || d.tokens.len() + turns.as_ref().map_or(0, |t| t.1.len()) >= longest {
                let d = live.remove(i);
                finished += d.tokens.len();
                done.push((d.number, d.tokens));
            } else {
                i += 1;
            }
        }
        progress(finished.min(tokens), tokens);
    }
    done.sort();
    Ok(done.into_iter().flat_map(|(_, t)| t).collect())
}
