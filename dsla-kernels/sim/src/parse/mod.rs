//! The module level: directives, kernels and their parameters.

mod body;
mod operand;

pub(crate) use body::Body;
pub(crate) use operand::{Operand, Var};

use crate::lex::{Tok, lex};
use crate::op::Func;
use crate::types::Type;
use crate::{Entry, Fault, Param};

pub(crate) type Res<T> = Result<T, Fault>;

/// A `.shared` variable.
#[derive(Clone, Debug)]
pub(crate) struct SharedVar {
    pub name: String,
    pub align: u32,
    /// None: `.extern`, sized at launch.
    pub bytes: Option<u32>,
}

/// Tokens and what the module has said so far.
pub(crate) struct Parser {
    toks: Vec<(Tok, usize)>,
    i: usize,
    /// Ten times the `.version`.
    pub version: u32,
    /// The `.target` number.
    pub target: u32,
    shared: Vec<SharedVar>,
}

/// Everything in the text.
pub(crate) fn module(text: &str) -> Res<(Vec<Entry>, Vec<Func>)> {
    let mut p = Parser { toks: lex(text)?, i: 0, version: 0, target: 0, shared: Vec::new() };
    p.header()?;
    let (mut entries, mut funcs): (Vec<Entry>, Vec<Func>) = (Vec::new(), Vec::new());
    while *p.peek() != Tok::End {
        let line = p.line();
        let word = p.word("a directive")?;
        match word.as_str() {
            ".visible" | ".weak" => {
                if *p.peek() != Tok::Word(".entry".into()) {
                    return Err(p.error(format!("`.entry` after `{word}`, got {}", p.peek())));
                }
            }
            ".entry" => {
                let (e, f) = p.entry()?;
                if entries.iter().any(|o| o.name == e.name) {
                    return Err(Fault::load(line, format!("a second kernel named {}", e.name)));
                }
                entries.push(e);
                funcs.push(f);
            }
            ".extern" | ".shared" => {
                let v = p.shared_var(word == ".extern")?;
                p.shared.push(v);
            }
            ".file" | ".pragma" => p.skip_line(),
            _ => return Err(Fault::load(line, format!("directive `{word}` is not supported"))),
        }
    }
    Ok((entries, funcs))
}

impl Parser {
    pub fn peek(&self) -> &Tok {
        &self.toks[self.i].0
    }

    pub fn line(&self) -> usize {
        self.toks[self.i].1
    }

    pub fn next(&mut self) -> Tok {
        let t = self.toks[self.i].0.clone();
        if self.i + 1 < self.toks.len() {
            self.i += 1;
        }
        t
    }

    pub fn error(&self, what: impl std::fmt::Display) -> Fault {
        Fault::load(self.line(), format!("want {what}"))
    }

    pub fn eat(&mut self, c: char) -> bool {
        let hit = *self.peek() == Tok::Punct(c);
        if hit {
            self.next();
        }
        hit
    }

    pub fn want(&mut self, c: char) -> Res<()> {
        if self.eat(c) { Ok(()) } else { Err(self.error(format!("`{c}`, got {}", self.peek()))) }
    }

    /// The next token when it is a word that `ok` likes.
    pub fn eat_word(&mut self, ok: impl Fn(&str) -> bool) -> Option<String> {
        match self.peek() {
            Tok::Word(w) if ok(w) => {
                let w = w.clone();
                self.next();
                Some(w)
            }
            _ => None,
        }
    }

    pub fn word(&mut self, what: &str) -> Res<String> {
        self.eat_word(|_| true).ok_or_else(|| self.error(format!("{what}, got {}", self.peek())))
    }

    /// A name that starts no directive.
    pub fn name(&mut self, what: &str) -> Res<String> {
        self.eat_word(|w| !w.contains('.')).ok_or_else(|| self.error(format!("{what}, got {}", self.peek())))
    }

    pub fn int(&mut self, what: &str) -> Res<u64> {
        match *self.peek() {
            Tok::Int(v) => {
                self.next();
                Ok(v)
            }
            _ => Err(self.error(format!("{what}, got {}", self.peek()))),
        }
    }

    fn small(&mut self, what: &str) -> Res<u32> {
        let v = self.int(what)?;
        u32::try_from(v).map_err(|_| self.error(format!("{what} below 2^32, got {v}")))
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.line() == line && *self.peek() != Tok::End {
            self.next();
        }
    }

    fn header(&mut self) -> Res<()> {
        let mut line = self.line();
        let version = self.eat_word(|w| w == ".version").and_then(|_| match self.next() {
            Tok::Decimal(v) => Some((f64::from_bits(v) * 10.0).round() as u32),
            _ => None,
        });
        self.version = version.ok_or_else(|| Fault::load(line, "want `.version X.Y` first"))?;
        line = self.line();
        let target = self.eat_word(|w| w == ".target").and_then(|_| self.eat_word(|_| true));
        let number = target.as_deref().and_then(|t| t.strip_prefix("sm_")).and_then(|t| t.parse().ok());
        self.target = number.ok_or_else(|| {
            Fault::load(line, "want `.target sm_NN` second (an `a` variant is not supported)")
        })?;
        if !(80..=121).contains(&self.target) {
            return Err(Fault::load(line, format!("want a target from sm_80 on, got sm_{}", self.target)));
        }
        line = self.line();
        if self.eat_word(|w| w == ".address_size").is_none() || self.int("64")? != 64 {
            return Err(Fault::load(line, "want `.address_size 64` third"));
        }
        Ok(())
    }

    fn align(&mut self, size: usize) -> Res<u32> {
        if self.eat_word(|w| w == ".align").is_none() {
            return Ok(size as u32);
        }
        let a = self.small("an alignment")?;
        if a.is_power_of_two() && a <= 1 << 20 {
            Ok(a)
        } else {
            Err(self.error(format!("a power of two, got {a}")))
        }
    }

    fn data_type(&mut self) -> Res<Type> {
        let word = self.word("a type")?;
        let ty =
            word.strip_prefix('.').and_then(Type::named).filter(|t| t.size() > 0 && !word.contains("x2"));
        ty.ok_or_else(|| self.error(format!("a type, got `{word}`")))
    }

    /// After `.shared` or `.extern`.
    pub fn shared_var(&mut self, external: bool) -> Res<SharedVar> {
        if external && self.eat_word(|w| w == ".shared").is_none() {
            return Err(self.error(format!("`.shared` after `.extern`, got {}", self.peek())));
        }
        let line = self.line();
        let given = if *self.peek() == Tok::Word(".align".into()) { Some(self.align(1)?) } else { None };
        let ty = self.data_type()?;
        let align = given.unwrap_or(ty.size() as u32);
        let name = self.name("a variable's name")?;
        let mut bytes = Some(ty.size() as u64);
        while self.eat('[') {
            if self.eat(']') {
                bytes = None;
                continue;
            }
            let n = self.int("an array length")?;
            self.want(']')?;
            bytes = bytes.and_then(|b| b.checked_mul(n));
        }
        self.want(';')?;
        match bytes {
            None if external => Ok(SharedVar { name, align, bytes: None }),
            Some(b) if !external && b < 1 << 24 => Ok(SharedVar { name, align, bytes: Some(b as u32) }),
            _ => Err(Fault::load(
                line,
                format!("shared variable {name}: `.extern` wants `[]`, any other a length below 2^24"),
            )),
        }
    }

    fn params(&mut self) -> Res<Vec<Param>> {
        let mut params: Vec<Param> = Vec::new();
        if !self.eat('(') || self.eat(')') {
            return Ok(params);
        }
        loop {
            if self.eat_word(|w| w == ".param").is_none() {
                return Err(self.error(format!("`.param`, got {}", self.peek())));
            }
            let given = if *self.peek() == Tok::Word(".align".into()) { Some(self.align(1)?) } else { None };
            let ty = self.data_type()?;
            if self.eat_word(|w| w == ".ptr").is_some() {
                self.eat_word(|w| matches!(w, ".global" | ".shared" | ".const" | ".local"));
                self.align(1)?;
                if ty.size() != 8 || ty.float() {
                    return Err(self.error(format!("`.ptr` on a 64-bit integer, got .{}", ty.name())));
                }
            }
            let name = self.name("a parameter's name")?;
            let mut size = ty.size();
            if self.eat('[') {
                size *= self.small("an array length")?.min(1 << 16) as usize;
                self.want(']')?;
            }
            let align = given.unwrap_or(ty.size() as u32) as usize;
            let offset = params.last().map_or(0, |p| p.offset + p.size).next_multiple_of(align);
            if params.iter().any(|p| p.name == name) {
                return Err(self.error(format!("one parameter named {name}, got two")));
            }
            if offset + size > 4352 {
                return Err(self.error(format!("at most 4352 bytes of parameters, got {}", offset + size)));
            }
            params.push(Param { name, ty: ty.name().to_string(), size, offset });
            if !self.eat(',') {
                break;
            }
        }
        self.want(')')?;
        Ok(params)
    }

    fn dims(&mut self) -> Res<[u32; 3]> {
        let mut d = [1; 3];
        for i in 0..3 {
            d[i] = self.small("a size")?;
            if i == 2 || !self.eat(',') {
                break;
            }
        }
        Ok(d)
    }

    fn entry(&mut self) -> Res<(Entry, Func)> {
        let name = self.name("a kernel's name")?;
        let params = self.params()?;
        let (mut reqntid, mut max) = (None, None);
        while let Some(d) = self.eat_word(|w| w.starts_with('.')) {
            match d.as_str() {
                ".reqntid" => reqntid = Some(self.dims()?),
                ".maxntid" => max = Some(self.dims()?.iter().product()),
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" => drop(self.small("a number")?),
                _ => return Err(self.error(format!("a performance directive, got `{d}`"))),
            }
        }
        let max_threads = reqntid.map(|d: [u32; 3]| d.iter().product()).or(max);
        self.want('{')?;
        let shared = self.shared.clone();
        let mut func = Body::parse(self, &params, &shared)?;
        func.reqntid = reqntid;
        func.max_threads = max_threads;
        Ok((Entry { name, params, shared_bytes: func.static_shared, max_threads }, func))
    }
}
