//! A five-digit number hidden in filler.

use super::Case;
use super::haystack::{Needle, Writer, spread};
use crate::Result;
use dsla_core::kernels::case::Rng;

const INTRO: &str = "Somewhere in the following text a pass key is hidden. Remember it, you will be asked for it at the end.\n";
const QUESTION: &str = "\nWhat is the pass key? The pass key is";

pub fn case(writer: &Writer, at: (usize, usize), rng: &mut Rng) -> Result<Case> {
    let key = (10_000 + rng.bits() % 90_000).to_string();
    let depth = spread(at, rng.uniform());
    let text = format!("\nThe pass key is {key}. Remember it: {key} is the pass key.\n");
    writer.hide(INTRO, &[Needle { depth, text }], QUESTION, key, depth)
}
