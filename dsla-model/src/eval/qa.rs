//! Answers to questions about a text, by F1 and exact match as SQuAD's official script (`evaluate-v2.0.py`) has them.

use super::jsonl::{self, Row};
use super::written::Prompting;
use crate::{Model, Plan, Result};
use std::collections::HashMap;
use std::path::Path;

/// A question about a text, and the answers people gave.
pub struct Asked {
    row: Row,
    context: String,
    question: String,
    /// At least one; the empty answer where the text has none.
    answers: Vec<String>,
}

/// Means over questions, each against the answer that fits best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QaScores {
    /// Words in common: harmonic mean of precision and recall.
    pub f1: f64,
    /// Share that is one of the answers, but for case, punctuation, articles and spaces.
    pub exact_match: f64,
    /// Questions.
    pub count: usize,
}

/// Questions from JSON Lines: rows {"context", "question", "answers"}, answers a list of strings or, as the Hugging Face
/// hub exports SQuAD, {"text": [...]}. No answer at all means that the text has none.
///
/// Errors: an unreadable file, or a row that is not that, by line and field.
pub fn read_asked(file: &Path) -> Result<Vec<Asked>> {
    let asked = |row: Row| {
        let answers = row.get("answers").map(|a| a.get("text").unwrap_or(a));
        let answers = row.strings("answers", answers, 0)?;
        let mut answers: Vec<String> = answers.into_iter().map(str::to_owned).collect();
        if answers.is_empty() {
            answers.push(String::new());
        }
        let (context, question) = (row.text("context")?.to_owned(), row.text("question")?.to_owned());
        Ok(Asked { row, context, question, answers })
    };
    jsonl::rows(file)?.into_iter().map(asked).collect()
}

/// Let the model answer each question in one line. `progress` sees (questions done, questions).
///
/// Errors: a prompt that does not fit the model, by line; found before anything runs.
pub fn qa(
    model: &Model,
    plan: &Plan,
    questions: &[Asked],
    prompting: &Prompting,
    mut progress: impl FnMut(usize, usize),
) -> Result<QaScores> {
    let prompts = questions.iter().map(|q| {
        let prompt = format!("{}\n\nQuestion: {}\nAnswer:", q.context, q.question);
        prompting.encode(model, &prompt, &q.row)
    });
    let prompts = prompts.collect::<Result<Vec<_>>>()?;
    let (mut f1, mut exact) = (0.0, 0.0);
    for (i, (q, prompt)) in questions.iter().zip(&prompts).enumerate() {
        let got = words(&prompting.write(model, plan, prompt, "\n")?);
        let best = |score: fn(&[String], &[String]) -> f64| {
            q.answers.iter().map(|a| score(&got, &words(a))).fold(0.0, f64::max)
        };
        f1 += best(overlap);
        exact += best(|a, b| (a == b) as usize as f64);
        progress(i + 1, questions.len());
    }
    let n = questions.len().max(1) as f64;
    Ok(QaScores { f1: f1 / n, exact_match: exact / n, count: questions.len() })
}

/// SQuAD's normal form: small letters, no ASCII punctuation, no articles.
fn words(text: &str) -> Vec<String> {
    let plain: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    plain.split_whitespace().filter(|w| !matches!(*w, "a" | "an" | "the")).map(str::to_owned).collect()
}

/// F1 of two bags of words; where one is empty, whether both are.
fn overlap(a: &[String], b: &[String]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return (a.is_empty() && b.is_empty()) as usize as f64;
    }
    let mut left: HashMap<&String, usize> = HashMap::new();
    b.iter().for_each(|w| *left.entry(w).or_default() += 1);
    let in_b = |w: &&String| left.get_mut(*w).is_some_and(|n| std::mem::replace(n, n.saturating_sub(1)) > 0);
    let common = a.iter().filter(in_b).count() as f64;
    2.0 * common / (a.len() + b.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of SQuAD's own `f1_score` and `exact_match_score`.
    #[test]
    fn as_the_official_script_scores() {
        let f1 = |a: &str, b: &str| overlap(&words(a), &words(b));
        assert_eq!(words("The  Eiffel-Tower, an icon!"), ["eiffeltower", "icon"]);
        assert_eq!(f1("the cat sat on the mat", "A cat sat."), 2.0 / 3.0);
        assert_eq!(f1("in 1889", "1889"), 2.0 / 3.0);
        assert_eq!(f1("so so so good", "so good"), 2.0 / 3.0);
        assert_eq!((f1("", ""), f1("the", ""), f1("Paris", "")), (1.0, 1.0, 0.0));
        assert_eq!((f1("London", "Paris"), f1("paris.", "Paris")), (0.0, 1.0));
    }
}
