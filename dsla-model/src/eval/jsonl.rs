//! JSON Lines that a user brings: every refusal names the file, the line and the field.

use crate::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One line of a file, an object.
pub struct Row {
    file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    value: Value,
}

/// All rows of a file; blank lines are skipped.
///
/// Errors: a file that cannot be read, invalid UTF-8, a line that is no JSON object, no rows.
pub fn rows(file: &Path) -> Result<Vec<Row>> {
    let bytes = std::fs::read(file).map_err(|e| Error::io(file, "read", &e))?;
    let mut rows = vec![];
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let at = || format!("line {}", i + 1);
        let line = std::str::from_utf8(line).map_err(|e| {
            let got = format!("invalid UTF-8 at byte {} of the line", e.valid_up_to());
            Error::file(file, at(), got, "UTF-8 text")
        })?;
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(value @ Value::Object(_)) => rows.push(Row { file: file.into(), line: i + 1, value }),
            Ok(other) => return Err(Error::file(file, at(), shown(&other), "a JSON object")),
            Err(e) => {
                return Err(Error::file(file, at(), format!("malformed JSON ({e})"), "a JSON object"));
            }
        }
    }
    match rows.is_empty() {
        true => Err(Error::file(file, "content", "no rows", "one JSON object per line")),
        false => Ok(rows),
    }
}

impl Row {
    /// The field's value, where it has one.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.value.get(field).filter(|v| !v.is_null())
    }

    /// Whether all of these fields are there.
    pub fn has(&self, fields: &[&str]) -> bool {
        fields.iter().all(|f| self.get(f).is_some())
    }

    /// A string.
    pub fn text(&self, field: &str) -> Result<&str> {
        let got = self.get(field);
        got.and_then(Value::as_str).ok_or_else(|| self.refuse(field, &seen(got), "a string"))
    }

    /// A list of strings, at least `least` of them.
    pub fn texts(&self, field: &str, least: usize) -> Result<Vec<&str>> {
        let got = self.get(field);
        self.strings(field, got, least)
    }

    /// As [`Row::texts`], from a value found elsewhere in the row.
    pub fn strings<'a>(&self, field: &str, got: Option<&'a Value>, least: usize) -> Result<Vec<&'a str>> {
        let list: Option<Vec<&str>> =
            got.and_then(Value::as_array).and_then(|l| l.iter().map(Value::as_str).collect());
        list.filter(|l| l.len() >= least)
            .ok_or_else(|| self.refuse(field, &seen(got), &format!("a list of at least {least} strings")))
    }

    /// An index below `n`, as a number or as a string of digits (exports of HellaSwag have it so).
    pub fn index(&self, field: &str, n: usize) -> Result<usize> {
        let got = self.get(field);
        let number = match got {
            Some(Value::String(s)) => s.parse().ok(),
            Some(v) => v.as_u64().and_then(|v| usize::try_from(v).ok()),
            None => None,
        };
        number
            .filter(|&i| i < n)
            .ok_or_else(|| self.refuse(field, &seen(got), &format!("an index of its {n} choices, from 0")))
    }

    /// What this row holds instead of what was wanted.
    pub fn refuse(&self, field: &str, got: &str, want: &str) -> Error {
        let at = if field.is_empty() {
            format!("line {}", self.line)
        } else {
            format!("line {}: {field}", self.line)
        };
        Error::file(&self.file, at, got, want)
    }
}

fn seen(v: Option<&Value>) -> String {
    v.map_or("nothing".into(), shown)
}

/// A value, short enough for an error.
fn shown(v: &Value) -> String {
    let text = v.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
