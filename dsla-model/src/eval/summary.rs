//! Summaries by ROUGE (Lin 2004), with the numbers of the PyPI package `rouge-score` without stemming.

use super::jsonl::{self, Row};
use super::written::Prompting;
use crate::{Model, Plan, Result};
use std::collections::HashMap;
use std::path::Path;

/// A document and the summary somebody wrote of it.
pub struct Document {
    row: Row,
    text: String,
    summary: String,
}

/// F-measures, of one pair or their means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rouge {
    /// Words in common.
    pub rouge1: f64,
    /// Pairs of neighbouring words in common.
    pub rouge2: f64,
    /// Longest common subsequence of words, the whole text as one sequence.
    pub rouge_l: f64,
}

/// Documents from JSON Lines: rows {"document", "summary"}.
///
/// Errors: an unreadable file, or a row that is not that, by line and field.
pub fn read_documents(file: &Path) -> Result<Vec<Document>> {
    let document = |row: Row| {
        let (text, summary) = (row.text("document")?.to_owned(), row.text("summary")?.to_owned());
        Ok(Document { row, text, summary })
    };
    jsonl::rows(file)?.into_iter().map(document).collect()
}

/// Let the model summarise each document in one paragraph; means over documents. `progress` sees (documents done,
/// documents).
///
/// Errors: a document that does not fit the model, by line; found before anything runs.
pub fn summary(
    model: &Model,
    plan: &Plan,
    documents: &[Document],
    prompting: &Prompting,
    mut progress: impl FnMut(usize, usize),
) -> Result<Rouge> {
    let ask = match prompting.chat {
        true => "Summarize the text above in a few sentences.",
        false => "Summary:",
    };
    let prompts = documents
        .iter()
        .map(|d| prompting.encode(model, &format!("{}\n\n{ask}", d.text), &d.row))
        .collect::<Result<Vec<_>>>()?;
    let mut sum = Rouge::default();
    for (i, (d, prompt)) in documents.iter().zip(&prompts).enumerate() {
        let r = rouge(&d.summary, &prompting.write(model, plan, prompt, "\n\n")?);
        sum = Rouge {
            rouge1: sum.rouge1 + r.rouge1,
            rouge2: sum.rouge2 + r.rouge2,
            rouge_l: sum.rouge_l + r.rouge_l,
        };
        progress(i + 1, documents.len());
    }
    let n = documents.len().max(1) as f64;
    Ok(Rouge { rouge1: sum.rouge1 / n, rouge2: sum.rouge2 / n, rouge_l: sum.rouge_l / n })
}

/// F-measures of a text against a reference.
pub fn rouge(reference: &str, text: &str) -> Rouge {
    let (a, b) = (words(reference), words(text));
    let n_grams = |n: usize| {
        let (a, b) = (counts(&a, n), counts(&b, n));
        let common: usize = a.iter().map(|(gram, n)| *n.min(b.get(gram).unwrap_or(&0))).sum();
        f_measure(common, a.values().sum(), b.values().sum())
    };
    Rouge {
        rouge1: n_grams(1),
        rouge2: n_grams(2),
        rouge_l: f_measure(common_subsequence(&a, &b), a.len(), b.len()),
    }
}

/// Runs of small letters and digits (ASCII, as `rouge-score` has them).
fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let alone = |c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit();
    text.split(alone).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

fn counts(words: &[String], n: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    words.windows(n).for_each(|gram| *counts.entry(gram).or_default() += 1);
    counts
}

/// Harmonic mean of common / in_a and common / in_b.
fn f_measure(common: usize, in_a: usize, in_b: usize) -> f64 {
    if common == 0 { 0.0 } else { 2.0 * common as f64 / (in_a + in_b) as f64 }
}

/// Length of the longest common subsequence, in one row of the table.
fn common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let up = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { up.max(row[j]) };
            diagonal = up;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F-measures of rouge-score 0.1.2, `RougeScorer(["rouge1", "rouge2", "rougeL"])`.
    #[test]
    fn as_the_package_scores() {
        let cases = [
            ("The cat sat on the mat.", "the cat was on the mat", [0.833333333333, 0.6, 0.833333333333]),
            (
                "The quick brown fox jumps over the lazy dog",
                "A lazy dog was jumped over by a quick, brown fox!",
                [0.6, 0.333333333333, 0.3],
            ),
            ("police killed the gunman", "the gunman police killed", [1.0, 0.666666666667, 0.5]),
            (
                "Zürich's trains: 12 lines, 3.5 million riders",
                "Zurich trains carry 3 million riders on 12 lines",
                [0.631578947368, 0.235294117647, 0.421052631579],
            ),
            ("one two one two one", "one one two two", [0.888888888889, 0.285714285714, 0.666666666667]),
            ("", "something", [0.0, 0.0, 0.0]),
            ("a", "a", [1.0, 0.0, 1.0]),
        ];
        for (reference, text, want) in cases {
            let r = rouge(reference, text);
            for (got, want) in [r.rouge1, r.rouge2, r.rouge_l].iter().zip(want) {
                assert!((got - want).abs() < 1e-11, "{reference:?}, {text:?}: {r:?}, want {want}");
            }
        }
    }
}
