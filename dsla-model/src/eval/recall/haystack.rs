//! Texts of an exact number of tokens: filler with needles at given depths.

use super::{Case, Question};
use crate::{Error, Result, Tokenizer};

const FILLER: &str = "The river runs past the mill. The bread is in the oven. A cart rolls down the lane. Then it is quiet again. ";

/// Tokens of a list that is worth asking about.
const LEAST_LIST: usize = 64;
/// Tokens kept free for the question, which is a key.
const LONGEST_KEY: usize = 16;

/// A key and its value.
pub type Pair = (String, String);

/// Writes the texts of one run: all have the same length.
pub struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    filler: Vec<u32>,
    task: &'static str,
    length: usize,
}

/// A fact to hide.
pub struct Needle {
    /// 0: the start of the text, 1: its end. Needles keep the order of their depths.
    pub depth: f64,
    /// A line of its own.
    pub text: String,
}

impl<'a> Writer<'a> {
    pub fn new(tokenizer: &'a Tokenizer, task: &'static str, length: usize) -> Result<Writer<'a>> {
        let filler = tokenizer.encode(FILLER, false)?;
        if filler.is_empty() {
            let (at, message) = ("encode", "no tokens for plain English text".into());
            return Err(Error::Tokenizer { at, message });
        }
        Ok(Writer { tokenizer, filler, task, length })
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text, false)
    }

    /// Tokens left for the body between an introduction and a question.
    ///
    /// Errors: fewer than `least`.
    pub fn room(&self, taken: usize, least: usize) -> Result<usize> {
        match self.length.checked_sub(taken) {
            Some(room) if room >= least => Ok(room),
            _ => Err(Error::Argument {
                op: self.task,
                arg: "length",
                got: self.length.to_string(),
                want: format!("at least {} tokens", taken + least),
            }),
        }
    }

    /// Introduction, filler with the needles in it, and one question about the fact at `depth`.
    pub fn hide(
        &self,
        intro: &str,
        needles: &[Needle],
        question: &str,
        answer: String,
        depth: f64,
    ) -> Result<Case> {
        let (mut prompt, question) = (self.encode(intro)?, self.encode(question)?);
        let mut hidden = vec![];
        for n in needles {
            hidden.push((n.depth, self.encode(&n.text)?));
        }
        hidden.sort_by(|a, b| a.0.total_cmp(&b.0));
        let taken: usize = prompt.len() + question.len() + hidden.iter().map(|h| h.1.len()).sum::<usize>();
        // At least one round of filler: a text that is all needles would be another task.
        let room = self.room(taken, self.filler.len())?;
        let mut filled = 0;
        let mut fill = |prompt: &mut Vec<u32>, until: usize| {
            prompt.extend(self.filler.iter().cycle().take(until - filled));
            filled = until;
        };
        for (depth, tokens) in &hidden {
            fill(&mut prompt, (depth.clamp(0.0, 1.0) * room as f64) as usize);
            prompt.extend(tokens);
        }
        fill(&mut prompt, room);
        Ok(Case { prompt, questions: vec![Question { tokens: question, answer, depth }] })
    }

    /// Introduction and lines "key: value", as many as fit beside one more key; the pairs that are in the text.
    ///
    /// Errors: `pairs` ends before the text is full.
    pub fn list(&self, intro: &str, pairs: impl Iterator<Item = Pair>) -> Result<(Vec<u32>, Vec<Pair>)> {
        let (mut prompt, mut inside) = (self.encode(intro)?, vec![]);
        self.room(prompt.len(), LEAST_LIST)?;
        for (key, value) in pairs {
            let tokens = self.encode(&format!("{key}: {value}\n"))?;
            if prompt.len() + tokens.len() + LONGEST_KEY > self.length {
                return Ok((prompt, inside));
            }
            prompt.extend(tokens);
            inside.push((key, value));
        }
        let (got, want) = (self.length.to_string(), format!("at most {} tokens", prompt.len()));
        Err(Error::Argument { op: self.task, arg: "length", got, want })
    }
}

/// Depth of case `at.0` of `at.1`: spread evenly over the cases, so that every bin has its share.
pub fn spread(at: (usize, usize), uniform: f64) -> f64 {
    (at.0 as f64 + uniform) / at.1 as f64
}
