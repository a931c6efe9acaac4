//! Variable tracking: two chains of assignments in filler, "VAR B = VAR A" after "VAR A = 12345"; the value at the end
//! of one chain is asked, so that copying the only number in sight is right half of the time at best.

use super::haystack::{Needle, Writer, spread};
use super::{Case, words};
use crate::Result;
use dsla_core::kernels::case::Rng;

/// Chains in a text.
const CHAINS: usize = 2;
/// Assignments from one variable to the next, after the number's own.
const HOPS: usize = 2;
const INTRO: &str = "Memorise the values of the variables hidden in the following text.\n";

pub fn case(writer: &Writer, at: (usize, usize), rng: &mut Rng) -> Result<Case> {
    let names = words::pick(&words::VARIABLES, CHAINS * (HOPS + 1), rng);
    let mut needles = vec![];
    let (mut question, mut answer, mut asked) = (String::new(), String::new(), 0.0);
    for (c, chain) in names.chunks(HOPS + 1).enumerate() {
        let value = (10_000 + rng.bits() % 90_000).to_string();
        let mut depth = if c == 0 { spread(at, rng.uniform()) } else { rng.uniform() };
        let mut source = value.clone();
        for (i, name) in chain.iter().enumerate() {
            if i == 0 && c == 0 {
                asked = depth;
            }
            needles.push(Needle { depth, text: format!("\nVAR {name} = {source}\n") });
            source = format!("VAR {name}");
            depth += (1.0 - depth) * rng.uniform();
        }
        if c == 0 {
            question = format!("\nThe value of {source} is");
            answer = value;
        }
    }
    writer.hide(INTRO, &needles, &question, answer, asked)
}
