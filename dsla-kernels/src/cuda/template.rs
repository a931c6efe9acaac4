//! PTX templates: what makes hand-written PTX bearable, and nothing more.
//!
//! A line whose first character (after blanks) is `#` is a directive; all other lines are PTX, in which `${expr}` is
//! replaced by its value. The text after expansion is what the driver, ptxas and the simulator all see.
//!
//! ```text
//! #let ROWS = 64 / D                  a constant from here on (in this block)
//! #for i in 0..4                      the lines between, once per i
//! #for t in bf16 f16                  the same over words
//! #if T == "bf16" && D > 64           #elif ..., #else
//! #macro step(acc, at)                a block of lines with parameters
//! #use step(%f${i}, 16)               its lines; arguments are text, or values where they are expressions
//! #end                                ends for, if and macro
//! ```
//!
//! Expressions: integers, floats, "strings", names; `? :`, `|| && == != < <= > >= | ^ & << >> + - * / % ! -` as in
//! Rust, integer division; functions `f32(x)` (PTX's `0f` literal of x), `log2(n)`, `min`, `max`, `rsqrt(x)`.

use super::expr::{self, Value};
use std::collections::HashMap;
use std::fmt::Write as _;

/// Names and their values.
pub type Names = HashMap<String, Value>;

/// An error with the template's line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {detail}")]
pub struct TemplateError {
    /// 1-based.
    pub line: usize,
    /// What is wrong.
    pub detail: String,
}

type Lines<'a> = Vec<(usize, &'a str)>;

/// Expand a template with these constants.
pub fn expand(text: &str, constants: &[(&str, &str)]) -> Result<String, TemplateError> {
    let mut names = Names::new();
    for (name, value) in constants {
        names.insert(name.to_string(), Value::parse(value));
    }
    let lines: Lines = text.lines().enumerate().map(|(i, l)| (i + 1, l)).collect();
    let mut out = String::with_capacity(text.len() * 4);
    Expander::default().block(&lines, &mut names, &mut out)?;
    Ok(out)
}

#[derive(Default)]
struct Expander<'a> {
    macros: HashMap<String, (Vec<String>, Lines<'a>)>,
    depth: usize,
}

fn fail<T>(line: usize, detail: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError { line, detail: detail.into() })
}

impl<'a> Expander<'a> {
    fn block(
        &mut self,
        lines: &[(usize, &'a str)],
        names: &mut Names,
        out: &mut String,
    ) -> Result<(), TemplateError> {
        let mut i = 0;
        while i < lines.len() {
            let (at, raw) = lines[i];
            let trimmed = raw.trim_start();
            let Some(directive) = trimmed.strip_prefix('#') else {
                out.push_str(&substitute(at, raw, names)?);
                out.push('\n');
                i += 1;
                continue;
            };
            let directive = directive.split("//").next().unwrap_or("").trim();
            let (word, rest) = directive.split_once(char::is_whitespace).unwrap_or((directive, ""));
            match word {
                "let" => {
                    let Some((name, value)) = rest.split_once('=') else {
                        return fail(at, "want #let NAME = expr");
                    };
                    let value = eval(at, value, names)?;
                    names.insert(name.trim().into(), value);
                    i += 1;
                }
                "use" => {
                    self.call(at, rest, names, out)?;
                    i += 1;
                }
                "for" | "if" | "macro" => {
                    let (end, parts) = parts(lines, i)?;
                    match word {
                        "for" => self.repeat(at, rest, &lines[i + 1..end], names, out)?,
                        "if" => self.choose(lines, &parts, names, out)?,
                        _ => self.define(at, rest, &lines[i + 1..end])?,
                    }
                    i = end + 1;
                }
                other => return fail(at, format!("unknown directive #{other}")),
            }
        }
        Ok(())
    }

    fn repeat(
        &mut self,
        at: usize,
        head: &str,
        body: &[(usize, &'a str)],
        names: &mut Names,
        out: &mut String,
    ) -> Result<(), TemplateError> {
        let Some((name, range)) = head.split_once(" in ") else { return fail(at, "want #for NAME in a..b") };
        let values: Vec<Value> = match range.split_once("..") {
            Some((a, b)) => {
                let int = |s: &str| match eval(at, s, names)? {
                    Value::Int(i) => Ok(i),
                    v => fail(at, format!("a range of {v}")),
                };
                (int(a)?..int(b)?).map(Value::Int).collect()
            }
            None => substitute(at, range, names)?.split_whitespace().map(Value::parse).collect(),
        };
        for value in values {
            let mut inner = names.clone();
            inner.insert(name.trim().into(), value);
            self.block(body, &mut inner, out)?;
        }
        Ok(())
    }

    /// `parts`: the lines of #if, #elif, #else and #end. The chosen body sees and changes the outer names.
    fn choose(
        &mut self,
        lines: &[(usize, &'a str)],
        parts: &[usize],
        names: &mut Names,
        out: &mut String,
    ) -> Result<(), TemplateError> {
        for pair in parts.windows(2) {
            let (at, raw) = lines[pair[0]];
            let directive = raw.trim_start()[1..].split("//").next().unwrap_or("").trim();
            let (word, rest) = directive.split_once(char::is_whitespace).unwrap_or((directive, ""));
            if word == "else" || eval(at, rest, names)?.truth() {
                return self.block(&lines[pair[0] + 1..pair[1]], names, out);
            }
        }
        Ok(())
    }

    fn define(&mut self, at: usize, head: &str, body: &[(usize, &'a str)]) -> Result<(), TemplateError> {
        let Some((name, args)) = head.trim().strip_suffix(')').and_then(|h| h.split_once('(')) else {
            return fail(at, "want #macro name(a, b)");
        };
        let args = args.split(',').map(|a| a.trim().to_string()).filter(|a| !a.is_empty()).collect();
        self.macros.insert(name.trim().into(), (args, body.to_vec()));
        Ok(())
    }

    fn call(&mut self, at: usize, head: &str, names: &Names, out: &mut String) -> Result<(), TemplateError> {
        let Some((name, given)) = head.trim().strip_suffix(')').and_then(|h| h.split_once('(')) else {
            return fail(at, "want #use name(a, b)");
        };
        let Some((args, body)) = self.macros.get(name.trim()).cloned() else {
            return fail(at, format!("no macro {}", name.trim()));
        };
        let given: Vec<String> = split(given);
        if given.len() != args.len() {
            return fail(at, format!("{name} takes {} arguments, got {}", args.len(), given.len()));
        }
        if self.depth > 32 {
            return fail(at, "macros nest too deeply");
        }
        let mut inner = names.clone();
        for (arg, text) in args.into_iter().zip(given) {
            let text = substitute(at, &text, names)?;
            let value = expr::eval(&text, names).unwrap_or(Value::Str(text));
            inner.insert(arg, value);
        }
        self.depth += 1;
        let result = self.block(&body, &mut inner, out);
        self.depth -= 1;
        result
    }
}

/// Arguments at the commas outside brackets.
fn split(text: &str) -> Vec<String> {
    let (mut depth, mut args, mut current) = (0, Vec::new(), String::new());
    for c in text.chars() {
        match c {
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            args.push(std::mem::take(&mut current).trim().to_string());
        } else {
            current.push(c);
        }
    }
    if !current.trim().is_empty() || !args.is_empty() {
        args.push(current.trim().to_string());
    }
    args
}

/// The index of the #end that closes lines[start], and those of the parts: start, its #elif and #else, the end.
fn parts(lines: &[(usize, &str)], start: usize) -> Result<(usize, Vec<usize>), TemplateError> {
    let (mut depth, mut parts) = (0, vec![start]);
    for (i, (_, raw)) in lines.iter().enumerate().skip(start) {
        let Some(directive) = raw.trim_start().strip_prefix('#') else { continue };
        match directive.split_whitespace().next().unwrap_or("") {
            "for" | "if" | "macro" => depth += 1,
            "elif" | "else" if depth == 1 => parts.push(i),
            "end" => {
                depth -= 1;
                if depth == 0 {
                    parts.push(i);
                    return Ok((i, parts));
                }
            }
            _ => {}
        }
    }
    fail(lines[start].0, "no #end")
}

fn eval(line: usize, text: &str, names: &Names) -> Result<Value, TemplateError> {
    expr::eval(text, names).or_else(|detail| fail(line, format!("{}: {detail}", text.trim())))
}

/// The line with every `${expr}` replaced.
fn substitute(line: usize, text: &str, names: &Names) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else { return fail(line, "${ without }") };
        let _ = write!(out, "{}", eval(line, &rest[at + 2..at + end], names)?);
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, constants: &[(&str, &str)]) -> String {
        let out = expand(text, constants).unwrap_or_else(|e| panic!("{e}"));
        out.lines().map(str::trim).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn loops_choices_and_macros() {
        assert_eq!(
            lines("#for i in 0..3\nadd %r${i}, ${i * 4 + 1};\n#end", &[]),
            "add %r0, 1;|add %r1, 5;|add %r2, 9;"
        );
        assert_eq!(lines("#for t in bf16 f16\nx.${t}\n#end", &[]), "x.bf16|x.f16");
        let text = "#if T == \"f32\" && D >= 64\na\n#elif D == 32\nb\n#else\nc\n#end";
        assert_eq!(lines(text, &[("T", "f32"), ("D", "128")]), "a");
        assert_eq!(lines(text, &[("T", "f16"), ("D", "32")]), "b");
        assert_eq!(lines(text, &[("T", "f16"), ("D", "64")]), "c");
        let text = "#macro step(acc, n)\nfma ${acc}, ${n + 1};\n#end\n#for i in 0..2\n#use step({%f${i}, %f9}, i * 10)\n#end";
        assert_eq!(lines(text, &[]), "fma {%f0, %f9}, 1;|fma {%f1, %f9}, 11;");
    }

    #[test]
    fn names_live_in_their_block() {
        assert_eq!(lines("#let N = 2\n#for i in 0..1\n#let N = 5\n${N}\n#end\n${N}", &[]), "5|2");
        assert_eq!(lines("#if 1\n#let N = 5\n#end\n${N}", &[]), "5");
    }

    #[test]
    fn literals() {
        assert_eq!(
            lines("${f32(0.125)} ${f32(1)} ${log2(64)} ${min(3, 2)}", &[]),
            "0f3E000000 0f3F800000 6 2"
        );
        assert_eq!(lines("${f32(rsqrt(64))}", &[]), "0f3E000000");
        assert_eq!(lines("${1 << 4 | 1} ${7 / 2} ${-7 % 3} ${1 ? 2 : 3}", &[]), "17 3 -1 2");
    }

    #[test]
    fn errors_carry_their_line() {
        for (text, line) in [
            ("a\n#nope", 2),
            ("#if 1\nx", 1),
            ("\n\n${missing}", 3),
            ("#use f()", 1),
            ("${1", 1),
            ("${1 / 0}", 1),
        ] {
            assert_eq!(expand(text, &[]).unwrap_err().line, line, "{text}");
        }
    }
}
