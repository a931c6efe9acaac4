//! What datasets call their fields, and the words lm-eval puts around them (its task files for piqa, ai2_arc, hellaswag
//! and winogrande).

use super::super::jsonl::Row;
use super::{Choice, Question};
use crate::Result;

/// The question in a row, whichever layout it has.
pub fn question(row: Row) -> Result<Question> {
    let (choices, gold) = if row.has(&["goal", "sol1", "sol2"]) {
        piqa(&row)?
    } else if row.has(&["question", "answerKey"]) {
        arc(&row)?
    } else if row.has(&["ctx_a", "endings"]) {
        hellaswag(&row)?
    } else if row.has(&["sentence", "option1", "option2"]) {
        winogrande(&row)?
    } else {
        plain(&row)?
    };
    Ok(Question { row, choices, gold })
}

/// A choice after its context, with a space between: lm-eval's `target_delimiter`.
fn after(context: &str, text: &str) -> Choice {
    Choice { context: context.into(), continuation: format!(" {text}"), text: text.into() }
}

/// All choices after the same context.
fn all(context: &str, choices: &[impl AsRef<str>]) -> Vec<Choice> {
    choices.iter().map(|c| after(context, c.as_ref())).collect()
}

type Found = (Vec<Choice>, usize);

fn plain(row: &Row) -> Result<Found> {
    if !row.has(&["context", "choices", "gold"]) {
        let want = "context, choices and gold, or a row of PIQA, ARC, HellaSwag or WinoGrande";
        return Err(row.refuse("", "other fields", want));
    }
    let (context, texts) = (row.text("context")?, row.texts("choices", 2)?);
    let mut choices = all(context, &texts);
    // Who wrote the space knows where it belongs.
    let written =
        |c: &Choice| context.ends_with(char::is_whitespace) || c.text.starts_with(char::is_whitespace);
    choices.iter_mut().filter(|c| written(c)).for_each(|c| c.continuation = c.text.clone());
    let gold = row.index("gold", choices.len())?;
    Ok((choices, gold))
}

fn piqa(row: &Row) -> Result<Found> {
    let context = format!("Question: {}\nAnswer:", row.text("goal")?);
    let choices = all(&context, &[row.text("sol1")?, row.text("sol2")?]);
    Ok((choices, row.index("label", 2)?))
}

/// `choices` is {"text": [...], "label": ["A", ...]}; `answerKey` one of the labels.
fn arc(row: &Row) -> Result<Found> {
    let part = |name: &str| row.get("choices").and_then(|c| c.get(name));
    let context = format!("Question: {}\nAnswer:", row.text("question")?);
    let texts = row.strings("choices.text", part("text"), 2)?;
    let labels = row.strings("choices.label", part("label"), texts.len())?;
    let key = row.text("answerKey")?;
    let gold = labels.iter().position(|l| *l == key).filter(|&i| i < texts.len());
    let gold = gold.ok_or_else(|| row.refuse("answerKey", key, &format!("one of {}", labels.join(", "))))?;
    Ok((all(&context, &texts), gold))
}

fn hellaswag(row: &Row) -> Result<Found> {
    let (a, b) = (row.text("ctx_a")?, row.get("ctx_b").map_or(Ok(""), |_| row.text("ctx_b"))?);
    let context = tidy(&format!("{}: {a} {}", row.text("activity_label")?, capitalized(b)));
    let endings: Vec<String> = row.texts("endings", 2)?.into_iter().map(tidy).collect();
    let gold = row.index("label", endings.len())?;
    Ok((all(&context, &endings), gold))
}

/// WikiHow's brackets and the double spaces they leave.
fn tidy(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('[') {
        // As `\[.*?\]` has it: within one line, to the first bracket that closes.
        match after.split_once(']').filter(|(inside, _)| !inside.contains('\n')) {
            Some((_, after)) => {
                out.push_str(before);
                rest = after;
            }
            None => {
                out.push_str(before);
                out.push('[');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.replace("  ", " ")
}

/// Python's `capitalize`: the first letter large, all others small.
fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or(String::new(), |c| c.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect())
}

/// The sentence up to the blank with each option in it is the context; the rest of the sentence is what is scored.
fn winogrande(row: &Row) -> Result<Found> {
    let sentence = row.text("sentence")?;
    let (before, ending) =
        sentence.split_once('_').ok_or_else(|| row.refuse("sentence", "no blank", "one, written _"))?;
    let gold = match row.text("answer")? {
        "1" => 0,
        "2" => 1,
        other => return Err(row.refuse("answer", &format!("{other:?}"), "\"1\" or \"2\"")),
    };
    let choice = |option: &str| {
        let context = format!("{before}{option}");
        Choice { text: context.clone(), context, continuation: format!(" {}", ending.trim()) }
    };
    Ok((vec![choice(row.text("option1")?), choice(row.text("option2")?)], gold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hellaswag_is_put_in_order_as_lm_eval_does() {
        assert_eq!(tidy(" Roof [title] Get [step] a  ladder.[x\ny] "), "Roof. Get a ladder.[x\ny]");
        assert_eq!(tidy("a [b [c] d] e   f ["), "a d] e  f [");
        assert_eq!(capitalized("a Man WALKS"), "A man walks");
        assert_eq!(capitalized(""), "");
    }
}
