//! Text to tokens.

use crate::Fault;

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tok {
    /// A name, opcode with its modifiers, or directive: `%r1`, `ld.global.u32`, `.reg`.
    Word(String),
    /// An integer.
    Int(u64),
    /// `0fXXXXXXXX`.
    F32(u32),
    /// `0dXXXXXXXXXXXXXXXX`.
    F64(u64),
    /// A decimal with a point or exponent, as f64 bits.
    Decimal(u64),
    /// A quoted string, contents dropped.
    Text,
    /// One of `{}[]()<>,;:@!|+-=`.
    Punct(char),
    /// The end.
    End,
}

impl std::fmt::Display for Tok {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Tok::Word(w) => write!(f, "`{w}`"),
            Tok::Int(i) => write!(f, "`{i}`"),
            Tok::F32(b) => write!(f, "`0f{b:08X}`"),
            Tok::F64(b) => write!(f, "`0d{b:016X}`"),
            Tok::Decimal(b) => write!(f, "`{:?}`", f64::from_bits(*b)),
            Tok::Text => write!(f, "a string"),
            Tok::Punct(c) => write!(f, "`{c}`"),
            Tok::End => write!(f, "the end of the text"),
        }
    }
}

/// All tokens, each with its 1-based line; the last is [`Tok::End`].
pub(crate) fn lex(text: &str) -> Result<Vec<(Tok, usize)>, Fault> {
    let s = text.as_bytes();
    let mut out = Vec::with_capacity(s.len() / 4);
    let (mut i, mut line) = (0, 1);
    let at = |i: usize| s.get(i).copied().unwrap_or(0);
    while i < s.len() {
        let c = s[i];
        match c {
            b'\n' => {
                line += 1;
                i += 1;
            }
            b' ' | b'\t' | b'\r' => i += 1,
            b'/' if at(i + 1) == b'/' => {
                while i < s.len() && s[i] != b'\n' {
                    i += 1;
                }
            }
            b'/' if at(i + 1) == b'*' => {
                let start = line;
                i += 2;
                while !(at(i) == b'*' && at(i + 1) == b'/') {
                    if i >= s.len() {
                        return Err(Fault::load(start, "a comment that never ends"));
                    }
                    line += usize::from(s[i] == b'\n');
                    i += 1;
                }
                i += 2;
            }
            b'"' => {
                i += 1;
                while at(i) != b'"' {
                    if i >= s.len() || s[i] == b'\n' {
                        return Err(Fault::load(line, "a string that never ends"));
                    }
                    i += 1;
                }
                i += 1;
                out.push((Tok::Text, line));
            }
            b'0'..=b'9' => {
                let (tok, n) = number(&text[i..]).map_err(|e| Fault::load(line, e))?;
                i += n;
                out.push((tok, line));
            }
            _ if word_start(c) => {
                let start = i;
                i += 1;
                loop {
                    let c = at(i);
                    if c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'.') {
                        i += 1;
                    } else if c == b':' && at(i + 1) == b':' {
                        i += 2;
                    } else {
                        break;
                    }
                }
                out.push((Tok::Word(text[start..i].to_string()), line));
            }
            b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b',' | b';' | b':' | b'@' | b'!'
            | b'|' | b'+' | b'-' | b'=' => {
                out.push((Tok::Punct(c as char), line));
                i += 1;
            }
            _ => return Err(Fault::load(line, format!("unexpected character {:?}", char::from(c)))),
        }
    }
    out.push((Tok::End, line));
    Ok(out)
}

fn word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// The number at the start of `s`, and its length.
fn number(s: &str) -> Result<(Tok, usize), String> {
    let b = s.as_bytes();
    let run = |from: usize, ok: fn(&u8) -> bool| from + b[from..].iter().take_while(|c| ok(c)).count();
    let hex = |c: &u8| c.is_ascii_hexdigit();
    let digits = |c: &u8| c.is_ascii_digit();
    let (tok, n) = match b.get(1).map(|c| c.to_ascii_lowercase()) {
        Some(b'x') if b[0] == b'0' => {
            let n = run(2, hex);
            (u64::from_str_radix(&s[2..n], 16).map(Tok::Int).map_err(|e| e.to_string()), n)
        }
        Some(b'b') if b[0] == b'0' => {
            let n = run(2, digits);
            (u64::from_str_radix(&s[2..n], 2).map(Tok::Int).map_err(|e| e.to_string()), n)
        }
        Some(b'f') if b[0] == b'0' => {
            let n = run(2, hex);
            let v = if n == 10 { u32::from_str_radix(&s[2..n], 16).ok() } else { None };
            (v.map(Tok::F32).ok_or("0f wants eight hex digits".to_string()), n)
        }
        Some(b'd') if b[0] == b'0' => {
            let n = run(2, hex);
            let v = if n == 18 { u64::from_str_radix(&s[2..n], 16).ok() } else { None };
            (v.map(Tok::F64).ok_or("0d wants sixteen hex digits".to_string()), n)
        }
        _ => {
            let mut n = run(0, digits);
            let mut float = false;
            if b.get(n) == Some(&b'.') {
                float = true;
                n = run(n + 1, digits);
            }
            if matches!(b.get(n), Some(b'e' | b'E')) {
                float = true;
                n += 1;
                if matches!(b.get(n), Some(b'+' | b'-')) {
                    n += 1;
                }
                n = run(n, digits);
            }
            if float {
                (s[..n].parse::<f64>().map(|v| Tok::Decimal(v.to_bits())).map_err(|e| e.to_string()), n)
            } else if n > 1 && b[0] == b'0' {
                (u64::from_str_radix(&s[1..n], 8).map(Tok::Int).map_err(|e| e.to_string()), n)
            } else {
                (s[..n].parse::<u64>().map(Tok::Int).map_err(|e| e.to_string()), n)
            }
        }
    };
    let tok = tok.map_err(|e| format!("a number that cannot be read, `{}`: {e}", &s[..n]))?;
    // An unsigned suffix is part of an integer.
    let n = n + usize::from(matches!(tok, Tok::Int(_)) && b.get(n) == Some(&b'U'));
    match b.get(n) {
        Some(c) if word_start(*c) => Err(format!("a number that runs into a name: `{}`", &s[..n + 1])),
        _ => Ok((tok, n)),
    }
}
