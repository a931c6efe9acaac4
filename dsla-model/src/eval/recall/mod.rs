//! Synthetic recall: facts in a long text, asked for at its end, scored by exact match of greedy text.
//!
//! Perplexity hides lost retrieval, so every quality number stands beside one of these. A task on which the teacher
//! itself fails measures nothing: look at the teacher's accuracy first.

mod haystack;
mod mqar;
mod multikey;
mod passkey;
mod phonebook;
mod tracking;
mod trunk;
mod words;

use crate::generate::{Options, generate_from};
use crate::{Error, Model, Plan, Result, Sequence};
use dsla_core::kernels::case::Rng;
use dsla_core::kernels::ops::sample::Params;
use haystack::Writer;
use trunk::Trunk;

/// Bins of depth.
const BINS: usize = 5;
/// Positions kept free for the answer.
const LONGEST_ANSWER: usize = 32;

/// What is hidden and asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// One five-digit number in filler (Mohtashami and Jaggi 2023).
    Passkey,
    /// Four names with a number each in filler, one of them asked (RULER's multi-key needle, Hsieh et al. 2024).
    Multikey,
    /// Nothing but pairs, eight of them asked: multi-query associative recall (Arora et al. 2024) in words.
    Mqar,
    /// A list of names and numbers, one of them asked (Jelassi et al. 2024).
    Phonebook,
    /// Variables assigned to each other, two chains, the end of one asked (RULER's variable tracking).
    Tracking,
}

impl Task {
    /// Every task.
    pub const ALL: [Task; 5] = [Task::Passkey, Task::Multikey, Task::Mqar, Task::Phonebook, Task::Tracking];

    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Task::Passkey => "passkey",
            Task::Multikey => "multikey",
            Task::Mqar => "mqar",
            Task::Phonebook => "phonebook",
            Task::Tracking => "vt",
        }
    }

    /// Case `at.0` of `at.1`, a function of the random numbers alone.
    fn case(self, writer: &Writer, at: (usize, usize), rng: &mut Rng) -> Result<Case> {
        match self {
            Task::Passkey => passkey::case(writer, at, rng),
            Task::Multikey => multikey::case(writer, at, rng),
            Task::Mqar => mqar::case(writer, rng),
            Task::Phonebook => phonebook::case(writer, at, rng),
            Task::Tracking => tracking::case(writer, at, rng),
        }
    }
}

impl std::str::FromStr for Task {
    type Err = Error;

    fn from_str(s: &str) -> Result<Task> {
        Task::ALL.into_iter().find(|t| t.name() == s).ok_or_else(|| Error::Argument {
            op: "recall",
            arg: "task",
            got: s.into(),
            want: Task::ALL.map(Task::name).join(", "),
        })
    }
}

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Prompt tokens, the question included.
    pub length: usize,
    /// Texts.
    pub count: usize,
    /// Of everything random.
    pub seed: u64,
}

/// Outcome of a recall task.
#[derive(Clone, Debug, PartialEq)]
pub struct Recall {
    /// Share of questions answered exactly.
    pub accuracy: f64,
    /// Texts.
    pub count: usize,
    /// Questions: one per text, with `mqar` eight.
    pub questions: usize,
    /// By depth of the fact, five bins from the start of the text to its end; bins without questions are left out.
    pub by_depth: Vec<DepthBin>,
}

/// A fifth of the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DepthBin {
    /// Middle of the bin, 0.1 to 0.9.
    pub depth: f64,
    /// Questions.
    pub count: usize,
    /// Share answered exactly.
    pub accuracy: f64,
}

/// A text and what is asked after it.
struct Case {
    prompt: Vec<u32>,
    /// Each asked of the text alone: answers do not see each other.
    questions: Vec<Question>,
}

struct Question {
    tokens: Vec<u32>,
    answer: String,
    /// Where the fact stands, 0 the start of the text, 1 its end.
    depth: f64,
}

/// Run a task on every plan; all see the same texts. `progress` sees (texts done, texts).
///
/// Errors: a length that holds no such text, or more than the model has positions for; no texts; no tokenizer.
pub fn recall(
    model: &Model,
    task: Task,
    plans: &[Plan],
    setup: &Setup,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Recall>> {
    if setup.count == 0 {
        let (got, want) = ("0".into(), "at least one text".into());
        return Err(Error::Argument { op: task.name(), arg: "count", got, want });
    }
    let room = model.table().positions().saturating_sub(LONGEST_ANSWER);
    if setup.length > room {
        let (got, want) = (setup.length.to_string(), format!("at most {room} of the model's positions"));
        return Err(Error::Argument { op: task.name(), arg: "length", got, want });
    }
    let writer = Writer::new(model.tokenizer()?, task.name(), setup.length)?;
    let mut rng = Rng::new(setup.seed);
    let mut bins = vec![[(0usize, 0usize); BINS]; plans.len()];
    let mut trunks = plans.iter().map(|p| Trunk::new(model, p)).collect::<Result<Vec<_>>>()?;
    for at in 0..setup.count {
        let case = task.case(&writer, (at, setup.count), &mut rng)?;
        for ((plan, bins), trunk) in plans.iter().zip(&mut bins).zip(&mut trunks) {
            let text = trunk.read(model, plan, &case.prompt)?;
            for q in &case.questions {
                let bin = &mut bins[((q.depth * BINS as f64) as usize).min(BINS - 1)];
                *bin = (bin.0 + 1, bin.1 + answers(model, text.clone(), q)? as usize);
            }
        }
        progress(at + 1, setup.count);
    }
    Ok(bins.iter().map(|bins| outcome(bins, setup.count)).collect())
}

/// Whether the greedy text after the question is the answer, and ends there.
fn answers(model: &Model, text: Sequence, q: &Question) -> Result<bool> {
    let tokenizer = model.tokenizer()?;
    let options = Options {
        max_tokens: (tokenizer.encode(&q.answer, false)?.len() + 3).min(LONGEST_ANSWER),
        params: Params { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 },
        ignore_eos: false,
        logprobs: None,
    };
    let out = generate_from(model, text, &q.tokens, &options, |_| true)?;
    Ok(is_answer(&tokenizer.decode(&out.ids, true)?, &q.answer))
}

fn is_answer(text: &str, answer: &str) -> bool {
    let rest = text.trim_start().strip_prefix(answer);
    rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

fn outcome(bins: &[(usize, usize)], count: usize) -> Recall {
    let (questions, hits) = bins.iter().fold((0, 0), |s, b| (s.0 + b.0, s.1 + b.1));
    let by_depth = bins.iter().enumerate().filter(|(_, b)| b.0 > 0).map(|(i, b)| DepthBin {
        depth: (i as f64 + 0.5) / BINS as f64,
        count: b.0,
        accuracy: b.1 as f64 / b.0 as f64,
    });
    Recall { accuracy: hits as f64 / questions as f64, count, questions, by_depth: by_depth.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_exact() {
        assert!(is_answer(" 12345.\nMore", "12345") && is_answer("12345", "12345"));
        assert!(!is_answer(" 123456", "12345") && !is_answer(" 1234", "12345") && !is_answer("", "12345"));
        assert!(!is_answer(" is 12345", "12345"));
    }

    #[test]
    fn bins_add_up() {
        let r = outcome(&[(2, 1), (0, 0), (1, 1), (0, 0), (1, 0)], 4);
        assert_eq!((r.accuracy, r.questions, r.by_depth.len()), (0.5, 4, 3));
        assert_eq!(r.by_depth[1], DepthBin { depth: 0.5, count: 1, accuracy: 1.0 });
    }
}
