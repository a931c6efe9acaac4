//! The expressions of templates: a Pratt parser over integers, floats and strings.

use super::template::Names;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An integer; comparisons give 0 and 1.
    Int(i64),
    /// A float; only good for arithmetic and for `f32()`.
    Float(f64),
    /// Text.
    Str(String),
}

impl Value {
    /// An integer where the text is one, else the text.
    pub fn parse(text: &str) -> Value {
        text.parse().map_or_else(|_| Value::Str(text.into()), Value::Int)
    }

    /// Not 0 and not empty.
    pub fn truth(&self) -> bool {
        match self {
            Value::Int(i) => *i != 0,
            Value::Float(x) => *x != 0.0,
            Value::Str(s) => !s.is_empty(),
        }
    }

    fn float(&self) -> Result<f64, String> {
        match self {
            Value::Int(i) => Ok(*i as f64),
            Value::Float(x) => Ok(*x),
            Value::Str(s) => Err(format!("\"{s}\" is no number")),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Int(i) => write!(f, "{i}"),
            Value::Float(x) => write!(f, "{x}"),
            Value::Str(s) => f.write_str(s),
        }
    }
}

/// The value of an expression.
pub fn eval(text: &str, names: &Names) -> Result<Value, String> {
    let mut p = Parser { rest: text, names };
    let value = p.choice()?;
    match p.peek() {
        "" => Ok(value),
        rest => Err(format!("unexpected {rest}")),
    }
}

/// Binary operators by precedence, weakest first.
const LEVELS: [&[&str]; 9] = [
    &["||"],
    &["&&"],
    &["==", "!=", "<=", ">=", "<", ">"],
    &["|"],
    &["^"],
    &["&"],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

struct Parser<'a> {
    rest: &'a str,
    names: &'a Names,
}

impl<'a> Parser<'a> {
    fn peek(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        self.rest
    }

    fn take(&mut self, token: &str) -> bool {
        match self.peek().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn want(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(format!("want {token} before {:?}", self.rest)) }
    }

    fn choice(&mut self) -> Result<Value, String> {
        let condition = self.binary(0)?;
        if !self.take("?") {
            return Ok(condition);
        }
        let yes = self.choice()?;
        self.want(":")?;
        let no = self.choice()?;
        Ok(if condition.truth() { yes } else { no })
    }

    fn binary(&mut self, level: usize) -> Result<Value, String> {
        if level == LEVELS.len() {
            return self.unary();
        }
        let mut left = self.binary(level + 1)?;
        loop {
            let rest = self.peek();
            let single = |op: &str| matches!(op, "|" | "&") && rest[1..].starts_with(op);
            let shift = |op: &str| matches!(op, "<" | ">") && rest[1..].starts_with(op);
            let Some(op) =
                LEVELS[level].iter().find(|op| rest.starts_with(**op) && !single(op) && !shift(op))
            else {
                return Ok(left);
            };
            self.take(op);
            let right = self.binary(level + 1)?;
            left = apply(op, left, right)?;
        }
    }

    fn unary(&mut self) -> Result<Value, String> {
        if self.take("-") {
            return match self.unary()? {
                Value::Int(i) => Ok(Value::Int(-i)),
                v => Ok(Value::Float(-v.float()?)),
            };
        }
        if self.take("!") {
            return Ok(Value::Int(!self.unary()?.truth() as i64));
        }
        self.atom()
    }

    fn atom(&mut self) -> Result<Value, String> {
        if self.take("(") {
            let v = self.choice()?;
            self.want(")")?;
            return Ok(v);
        }
        if self.take("\"") {
            let (text, rest) = self.rest.split_once('"').ok_or("an open string")?;
            self.rest = rest;
            return Ok(Value::Str(text.into()));
        }
        let rest = self.peek();
        let len = |f: fn(char) -> bool| rest.find(|c| !f(c)).unwrap_or(rest.len());
        if rest.starts_with(|c: char| c.is_ascii_digit()) {
            let n = len(|c| c.is_ascii_alphanumeric() || c == '.');
            let (word, rest) = rest.split_at(n);
            self.rest = rest;
            let value = match word.strip_prefix("0x") {
                Some(hex) => i64::from_str_radix(hex, 16).ok().map(Value::Int),
                None => word.parse().ok().map(Value::Int).or_else(|| word.parse().ok().map(Value::Float)),
            };
            return value.ok_or_else(|| format!("{word} is no number"));
        }
        let n = len(|c| c.is_ascii_alphanumeric() || c == '_');
        if n == 0 {
            return Err(format!("unexpected {rest:?}"));
        }
        let (name, rest) = rest.split_at(n);
        self.rest = rest;
        if !self.take("(") {
            return self.names.get(name).cloned().ok_or_else(|| format!("no name {name}"));
        }
        let mut args = vec![self.choice()?];
        while self.take(",") {
            args.push(self.choice()?);
        }
        self.want(")")?;
        call(name, &args)
    }
}

fn apply(op: &str, a: Value, b: Value) -> Result<Value, String> {
    use Value::{Float, Int, Str};
    let truth = |b: bool| Ok(Int(b as i64));
    match (op, &a, &b) {
        ("||", ..) => return truth(a.truth() || b.truth()),
        ("&&", ..) => return truth(a.truth() && b.truth()),
        ("==", Str(_), _) | ("==", _, Str(_)) => return truth(a.to_string() == b.to_string()),
        ("!=", Str(_), _) | ("!=", _, Str(_)) => return truth(a.to_string() != b.to_string()),
        _ => {}
    }
    if let (Int(x), Int(y)) = (&a, &b) {
        let value = match op {
            "+" => x.checked_add(*y),
            "-" => x.checked_sub(*y),
            "*" => x.checked_mul(*y),
            "/" => x.checked_div(*y),
            "%" => x.checked_rem(*y),
            "<<" => x.checked_shl(*y as u32),
            ">>" => x.checked_shr(*y as u32),
            "&" => Some(x & y),
            "|" => Some(x | y),
            "^" => Some(x ^ y),
            "==" => Some((x == y) as i64),
            "!=" => Some((x != y) as i64),
            "<" => Some((x < y) as i64),
            "<=" => Some((x <= y) as i64),
            ">" => Some((x > y) as i64),
            ">=" => Some((x >= y) as i64),
            _ => None,
        };
        return value.map(Int).ok_or_else(|| format!("{x} {op} {y} has no value"));
    }
    let (x, y) = (a.float()?, b.float()?);
    match op {
        "+" => Ok(Float(x + y)),
        "-" => Ok(Float(x - y)),
        "*" => Ok(Float(x * y)),
        "/" => Ok(Float(x / y)),
        "==" => truth(x == y),
        "<" => truth(x < y),
        ">" => truth(x > y),
        _ => Err(format!("{op} between floats")),
    }
}

fn call(name: &str, args: &[Value]) -> Result<Value, String> {
    use Value::{Float, Int, Str};
    match (name, args) {
        ("f32", [x]) => Ok(Str(format!("0f{:08X}", (x.float()? as f32).to_bits()))),
        ("rsqrt", [x]) => Ok(Float(1.0 / x.float()?.sqrt())),
        ("log2", [Int(n)]) if *n > 0 && n.count_ones() == 1 => Ok(Int(n.trailing_zeros() as i64)),
        ("min", [Int(a), Int(b)]) => Ok(Int(*a.min(b))),
        ("max", [Int(a), Int(b)]) => Ok(Int(*a.max(b))),
        _ => Err(format!("no function {name} of these {} arguments", args.len())),
    }
}
