//! Multi-query associative recall in words: a text that is nothing but pairs "red lamp: 42", and several of them asked.
//! There is no filler to forget, so what is measured is how many pairs the memory holds.

use super::haystack::{Writer, spread};
use super::{Case, Question, words};
use crate::Result;
use dsla_core::kernels::case::Rng;

/// Questions per text.
const QUERIES: usize = 8;
const INTRO: &str = "A list of things and their numbers.\n";

pub fn case(writer: &Writer, rng: &mut Rng) -> Result<Case> {
    let keys = words::pairs(&words::ADJECTIVES, &words::NOUNS, rng);
    let numbers = keys.into_iter().map(|key| (key, (10 + rng.bits() % 90).to_string()));
    let (prompt, pairs) = writer.list(INTRO, numbers)?;
    let questions = (0..QUERIES).map(|i| {
        let depth = spread((i, QUERIES), rng.uniform());
        let (key, value) = &pairs[(depth * pairs.len() as f64) as usize];
        Ok(Question { tokens: writer.encode(&format!("{key}:"))?, answer: value.clone(), depth })
    });
    let questions = questions.collect::<Result<_>>()?;
    Ok(Case { prompt, questions })
}
