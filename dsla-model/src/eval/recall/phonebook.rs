//! A phone book, and one name looked up in it: seven digits copied from one of many entries that look alike.

use super::haystack::{Writer, spread};
use super::{Case, Question, words};
use crate::Result;
use dsla_core::kernels::case::Rng;

const INTRO: &str = "The phone book of the town:\n";

pub fn case(writer: &Writer, at: (usize, usize), rng: &mut Rng) -> Result<Case> {
    let people = words::pairs(&words::NAMES, &words::SURNAMES, rng);
    let numbers = people.into_iter().map(|name| {
        let (area, number) = (100 + rng.bits() % 900, rng.bits() % 10_000);
        (name, format!("{area}-{number:04}"))
    });
    let (prompt, entries) = writer.list(INTRO, numbers)?;
    let depth = spread(at, rng.uniform());
    let (name, number) = &entries[(depth * entries.len() as f64) as usize];
    let tokens = writer.encode(&format!("{name}:"))?;
    Ok(Case { prompt, questions: vec![Question { tokens, answer: number.clone(), depth }] })
}
