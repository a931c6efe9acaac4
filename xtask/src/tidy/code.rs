//! Rust source split into code and comments, line by line: enough of a lexer that a rule never trips over a string.

/// One line of source.
#[derive(Default)]
pub struct Line {
    /// The code, with the contents of strings and characters left out.
    pub code: String,
    /// The comments.
    pub comment: String,
    /// Inside an item under `#[cfg(test)]` (or `cfg(all(test, ...))`).
    pub test: bool,
}

impl Line {
    /// `word` stands in the code, not as part of a longer name.
    pub fn has_word(&self, word: &str) -> bool {
        let name = |c: char| c.is_alphanumeric() || c == '_';
        self.code
            .match_indices(word)
            .any(|(i, _)| !self.code[..i].ends_with(name) && !self.code[i + word.len()..].starts_with(name))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Code,
    LineComment,
    /// Depth: block comments nest.
    BlockComment(usize),
    String,
    /// Number of `#`.
    RawString(usize),
}

/// Split `source`.
pub fn lines(source: &str) -> Vec<Line> {
    let text: Vec<char> = source.chars().collect();
    let mut lines = vec![Line::default()];
    let mut state = State::Code;
    let mut i = 0;
    let at = |i: usize| text.get(i).copied().unwrap_or('\0');
    while i < text.len() {
        let c = text[i];
        if c == '\n' {
            if state == State::LineComment {
                state = State::Code;
            }
            lines.push(Line::default());
            i += 1;
            continue;
        }
        let line = lines.last_mut().expect("starts with one line");
        let step = match state {
            State::Code if c == '/' && at(i + 1) == '/' => {
                state = State::LineComment;
                2
            }
            State::Code if c == '/' && at(i + 1) == '*' => {
                state = State::BlockComment(1);
                2
            }
            State::Code if c == '"' => {
                state = match raw_prefix(&line.code) {
                    Some(hashes) => State::RawString(hashes),
                    None => State::String,
                };
                line.code.push('"');
                1
            }
            State::Code if c == '\'' => {
                line.code.push('\'');
                character(&text[i..])
            }
            State::Code => {
                line.code.push(c);
                1
            }
            State::LineComment => {
                line.comment.push(c);
                1
            }
            State::BlockComment(depth) if c == '*' && at(i + 1) == '/' => {
                state = if depth == 1 { State::Code } else { State::BlockComment(depth - 1) };
                2
            }
            State::BlockComment(depth) if c == '/' && at(i + 1) == '*' => {
                state = State::BlockComment(depth + 1);
                2
            }
            State::BlockComment(_) => {
                line.comment.push(c);
                1
            }
            // An escaped newline still ends the line.
            State::String if c == '\\' => 1 + usize::from(at(i + 1) != '\n'),
            State::String if c == '"' => {
                line.code.push('"');
                state = State::Code;
                1
            }
            State::RawString(n) if c == '"' && (1..=n).all(|k| at(i + k) == '#') => {
                line.code.push('"');
                state = State::Code;
                1 + n
            }
            State::String | State::RawString(_) => 1,
        };
        i += step;
    }
    mark_tests(&mut lines);
    lines
}

/// Number of `#` when `code` ends in `r`, `br`, `cr` and hashes: the quote that follows opens a raw string.
fn raw_prefix(code: &str) -> Option<usize> {
    let rest = code.trim_end_matches('#');
    let hashes = code.len() - rest.len();
    let before = rest.strip_suffix('r')?;
    let before = before.strip_suffix(['b', 'c']).unwrap_or(before);
    (!before.ends_with(|c: char| c.is_alphanumeric() || c == '_')).then_some(hashes)
}

/// Length of the character literal at the start of `text`; 1 for a lifetime.
fn character(text: &[char]) -> usize {
    match text {
        ['\'', '\\', ..] => text.iter().skip(3).position(|&c| c == '\'').map_or(1, |n| n + 4),
        ['\'', _, '\'', ..] => 3,
        _ => 1,
    }
}

/// Mark the item after each `#[cfg(test)]`: to its closing brace, or to the `;` of an item without one.
fn mark_tests(lines: &mut [Line]) {
    let mut depth = 0usize;
    // Waiting for the item's first brace, or inside the item that opened at this depth.
    let (mut waiting, mut inside) = (false, None);
    for line in lines {
        let code: String = line.code.split_whitespace().collect();
        let mut rest = 0;
        if inside.is_none() && (code.contains("#[cfg(test)]") || code.contains("#[cfg(all(test,")) {
            waiting = true;
            rest = line.code.rfind(']').map_or(0, |i| i + 1);
        }
        line.test = waiting || inside.is_some();
        for (i, c) in line.code.char_indices() {
            match c {
                '{' => {
                    if waiting && i >= rest {
                        (waiting, inside) = (false, Some(depth));
                    }
                    depth += 1;
                }
                '}' => {
                    depth = depth.saturating_sub(1);
                    if inside == Some(depth) {
                        inside = None;
                    }
                }
                ';' if waiting && i >= rest => waiting = false,
                _ => {}
            }
        }
    }
}
