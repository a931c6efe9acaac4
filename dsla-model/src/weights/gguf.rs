//! GGUF versions 2 and 3, little-endian: typed metadata, then a table of tensors, then their bytes.
//!
//! Source: the specification in ggml's `docs/gguf.md`. Nothing here trusts a number of the file: counts and lengths are
//! compared with the bytes that are left before anything is allocated, offsets with the file and with each other.

use super::decode::Encoding;
use super::files::Mapped;
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// ggml's own limit (GGML_MAX_DIMS).
const MAX_DIMS: u32 = 4;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    /// An array of whole numbers.
    Integers(Vec<i64>),
    /// An array of floats or booleans: nothing we read is one, so only its length is kept.
    Other(u64),
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    /// Outermost dimension first (the file has them the other way round).
    pub shape: Vec<usize>,
    pub encoding: Encoding,
    /// From the start of the file.
    pub offset: usize,
    pub bytes: usize,
}

/// A parsed file: everything but the tensors' elements.
#[derive(Debug)]
pub(crate) struct Gguf {
    pub file: Mapped,
    pub metadata: HashMap<String, Value>,
    pub tensors: BTreeMap<String, Info>,
}

impl Gguf {
    pub fn open(path: &Path) -> Result<Gguf> {
        let file = Mapped::open(path)?;
        let (metadata, tensors) = parse(file.bytes(), path)?;
        Ok(Gguf { file, metadata, tensors })
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }

    fn wrong(&self, key: &str, got: &Value, want: &str) -> Error {
        Error::file(self.path(), key, got.describe(), want)
    }

    pub fn missing(&self, key: &str, want: &str) -> Error {
        Error::file(self.path(), key, "nothing", want)
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Text(s)) => Ok(Some(s)),
            Some(v) => Err(self.wrong(key, v, "a string")),
        }
    }

    pub fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Texts(s)) => Ok(Some(s)),
            Some(v) => Err(self.wrong(key, v, "an array of strings")),
        }
    }

    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Integers(v)) => Ok(Some(v)),
            Some(v) => Err(self.wrong(key, v, "an array of whole numbers")),
        }
    }

    pub fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(&Value::Unsigned(n)) => Ok(Some(n)),
            Some(&Value::Signed(n)) if n >= 0 => Ok(Some(n as u64)),
            Some(v) => Err(self.wrong(key, v, "a whole number, not negative")),
        }
    }

    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(&Value::Float(x)) => Ok(Some(x)),
            Some(v) => Err(self.wrong(key, v, "a float")),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(&Value::Bool(b)) => Ok(Some(b)),
            Some(v) => Err(self.wrong(key, v, "a boolean")),
        }
    }
}

impl Value {
    fn describe(&self) -> String {
        match self {
            Value::Unsigned(n) => n.to_string(),
            Value::Signed(n) => n.to_string(),
            Value::Float(x) => format!("the float {x}"),
            Value::Bool(b) => b.to_string(),
            Value::Text(s) => format!("{s:?}"),
            Value::Texts(v) => format!("an array of {} strings", v.len()),
            Value::Integers(v) => format!("an array of {} whole numbers", v.len()),
            Value::Other(n) => format!("an array of {n} floats or booleans"),
        }
    }
}

/// A position in the header.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    path: &'a Path,
}

impl<'a> Reader<'a> {
    fn error(&self, at: impl AsRef<str>, got: impl AsRef<str>, want: impl AsRef<str>) -> Error {
        Error::file(self.path, at, got, want)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        let left = self.left();
        match usize::try_from(n) {
            Ok(n) if n <= left => {
                let piece = &self.bytes[self.at..self.at + n];
                self.at += n;
                Ok(piece)
            }
            _ => Err(self.error(what, format!("{n} bytes wanted, {left} left in the file"), "a whole file")),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &str) -> Result<&'a str> {
        let n = self.u64(what)?;
        let bytes = self.take(n, what)?;
        std::str::from_utf8(bytes).map_err(|_| self.error(what, "invalid UTF-8", "UTF-8 text"))
    }

    /// A count of things of at least `size` bytes each: refused when they cannot all be in the file.
    fn count(&mut self, what: &str, size: usize) -> Result<usize> {
        let n = self.u64(what)?;
        let most = self.left() / size;
        match usize::try_from(n) {
            Ok(n) if n <= most => Ok(n),
            _ => Err(self.error(what, n.to_string(), format!("at most {most}, what the file's size allows"))),
        }
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.array::<1>(key)?[0])),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.array(key)?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array(key)?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.array(key)?))),
            4 => Value::Unsigned(u64::from(self.u32(key)?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.array(key)?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array(key)?))),
            7 => match self.array::<1>(key)?[0] {
                b @ 0..=1 => Value::Bool(b == 1),
                b => return Err(self.error(key, format!("the boolean {b}"), "0 or 1")),
            },
            8 => Value::Text(self.text(key)?.to_owned()),
            9 => self.values(key)?,
            10 => Value::Unsigned(self.u64(key)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(key)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            _ => return Err(self.error(key, format!("value type {kind}"), "a type in 0..=12")),
        })
    }

    fn values(&mut self, key: &str) -> Result<Value> {
        let kind = self.u32(key)?;
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(self.error(key, "an array of arrays", "an array of numbers or strings")),
            _ => return Err(self.error(key, format!("an array of type {kind}"), "a type in 0..=12")),
        };
        let n = self.count(key, size)?;
        match kind {
            // A string takes its 8 length bytes at least, its handle here 24: three times the file at the worst.
            8 => (0..n).map(|_| Ok(self.text(key)?.to_owned())).collect::<Result<_>>().map(Value::Texts),
            6 | 7 | 12 => {
                // `count` saw to it that n * size does not exceed the file.
                self.take((n * size) as u64, key)?;
                Ok(Value::Other(n as u64))
            }
            _ => {
                let integer = |v| match v {
                    Value::Signed(n) => Some(n),
                    Value::Unsigned(n) => i64::try_from(n).ok(),
                    _ => None,
                };
                let one = |r: &mut Self| {
                    integer(r.value(kind, key)?)
                        .ok_or_else(|| r.error(key, "a number above 2^63", "a signed 64-bit number"))
                };
                (0..n).map(|_| one(self)).collect::<Result<_>>().map(Value::Integers)
            }
        }
    }
}

type Parts = (HashMap<String, Value>, BTreeMap<String, Info>);

fn parse(bytes: &[u8], path: &Path) -> Result<Parts> {
    let mut r = Reader { bytes, at: 0, path };
    let magic = r.take(4, "magic")?;
    if magic != MAGIC {
        return Err(r.error("magic", format!("{:?}", magic.escape_ascii().to_string()), "\"GGUF\""));
    }
    let version = r.u32("version")?;
    if !matches!(version, 2 | 3) {
        let what =
            if matches!(version.swap_bytes(), 2 | 3) { "a big-endian file" } else { "another version" };
        return Err(r.error("version", format!("{version} ({what})"), "2 or 3, little-endian"));
    }
    // The smallest tensor entry: name length, dimensions, one dimension or none, type, offset.
    let tensor_count = r.count("tensor count", 8 + 4 + 4 + 8)?;
    // The smallest metadata entry: key length, type, one byte of value.
    let key_count = r.count("metadata count", 8 + 4 + 1)?;

    let mut metadata = HashMap::new();
    for i in 0..key_count {
        let key = r.text(&format!("metadata key {i}"))?;
        let kind = r.u32(key)?;
        let value = r.value(kind, key)?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(r.error(key, "the key a second time", "each key once"));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(&Value::Unsigned(a)) if a.is_power_of_two() && a <= 1 << 20 => a,
        Some(v) => return Err(r.error("general.alignment", v.describe(), "a power of two up to 2^20")),
    };

    let mut headers = Vec::new();
    for i in 0..tensor_count {
        headers.push(tensor_header(&mut r, i, alignment)?);
    }
    // No overflow: the position is inside the file, the alignment at most 2^20.
    let data = r.at.next_multiple_of(alignment as usize);
    let mut tensors = BTreeMap::new();
    for (name, shape, encoding, offset) in headers {
        let size = encoding.bytes(&shape).ok_or_else(|| {
            let blocks = encoding.block().0;
            r.error(
                &name,
                format!("shape {shape:?}"),
                format!("rows of a multiple of {blocks}, and a size that fits"),
            )
        })?;
        let start = usize::try_from(offset).ok().and_then(|o| o.checked_add(data));
        let Some(start) = start.filter(|s| s.checked_add(size).is_some_and(|end| end <= bytes.len())) else {
            let got = format!("{size} bytes at offset {offset}");
            return Err(r.error(
                &name,
                got,
                format!("a place in the {} bytes of data", bytes.len().saturating_sub(data)),
            ));
        };
        if tensors.contains_key(&name) {
            return Err(r.error(&name, "the tensor a second time", "each tensor once"));
        }
        tensors.insert(name, Info { shape, encoding, offset: start, bytes: size });
    }
    refuse_overlap(&tensors, &r)?;
    Ok((metadata, tensors))
}

fn tensor_header(
    r: &mut Reader<'_>,
    i: usize,
    alignment: u64,
) -> Result<(String, Vec<usize>, Encoding, u64)> {
    let name = r.text(&format!("name of tensor {i}"))?;
    let rank = r.u32(name)?;
    if rank > MAX_DIMS {
        return Err(r.error(name, format!("{rank} dimensions"), format!("at most {MAX_DIMS}")));
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        let d = r.u64(name)?;
        shape.push(
            usize::try_from(d).map_err(|_| r.error(name, format!("dimension {d}"), "a size that fits"))?,
        );
    }
    shape.reverse();
    let kind = r.u32(name)?;
    let encoding = match kind {
        0 => Encoding::F32,
        1 => Encoding::F16,
        2 => Encoding::Q4_0,
        3 => Encoding::Q4_1,
        8 => Encoding::Q8_0,
        30 => Encoding::BF16,
        _ => {
            let got = format!("unsupported type {} ({kind})", type_name(kind));
            return Err(r.error(name, got, "F32, F16, BF16, Q8_0, Q4_0 or Q4_1"));
        }
    };
    let offset = r.u64(name)?;
    if offset % alignment != 0 {
        return Err(r.error(
            name,
            format!("offset {offset}"),
            format!("a multiple of the alignment {alignment}"),
        ));
    }
    Ok((name.to_owned(), shape, encoding, offset))
}

/// Two tensors that share bytes are a damaged table, whatever the bytes are.
fn refuse_overlap(tensors: &BTreeMap<String, Info>, r: &Reader<'_>) -> Result<()> {
    let mut order: Vec<_> = tensors.iter().filter(|(_, t)| t.bytes > 0).collect();
    order.sort_by_key(|(_, t)| t.offset);
    for pair in order.windows(2) {
        let ((first, a), (second, b)) = (pair[0], pair[1]);
        if a.offset + a.bytes > b.offset {
            return Err(r.error(
                second,
                format!("bytes shared with {first}"),
                "tensors apart from each other",
            ));
        }
    }
    Ok(())
}

/// ggml's names, for the error message.
fn type_name(kind: u32) -> &'static str {
    match kind {
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16..=23 | 29 => "IQ",
        24..=27 => "integer",
        28 => "F64",
        _ => "unknown",
    }
}
