//! Several names with a number each, hidden in filler; one is asked, the others are there to be mistaken for it.

use super::haystack::{Needle, Writer, spread};
use super::{Case, words};
use crate::Result;
use dsla_core::kernels::case::Rng;

/// Keys in a text.
const KEYS: usize = 4;
const INTRO: &str = "Somewhere in the following text the pass keys of several people are hidden. Remember them, you will be asked for one at the end.\n";

pub fn case(writer: &Writer, at: (usize, usize), rng: &mut Rng) -> Result<Case> {
    let names = words::pick(&words::NAMES, KEYS, rng);
    let mut needles = vec![];
    let (mut answer, mut asked) = (String::new(), 0.0);
    for (i, name) in names.iter().enumerate() {
        let key = (10_000 + rng.bits() % 90_000).to_string();
        let depth = if i == 0 { spread(at, rng.uniform()) } else { rng.uniform() };
        needles.push(Needle {
            depth,
            text: format!(
                "\nThe pass key of {name} is {key}. Remember it: {key} is the pass key of {name}.\n"
            ),
        });
        if i == 0 {
            (answer, asked) = (key, depth);
        }
    }
    let name = names.first().copied().unwrap_or_default();
    let question = format!("\nWhat is the pass key of {name}? The pass key of {name} is");
    writer.hide(INTRO, &needles, &question, answer, asked)
}
