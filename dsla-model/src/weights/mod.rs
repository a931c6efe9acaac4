//! Weights by their HF names, wherever they come from: an HF directory (safetensors, one file or shards) or a GGUF
//! file. Files are mapped, never read whole; a tensor costs memory only when it is read.

mod decode;
mod files;
mod format;
mod gguf;
mod model_files;
mod names;
mod safetensors;

use crate::{Config, Error, Result};
use decode::{Encoding, decode};
use dsla_kernels::Tensor;
use dsla_kernels::ops::linear::Quant;

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub(crate) use files::{Mapped, file_sha256, hex, read_text, read_text_if_there};
pub use format::WeightFormat;
pub(crate) use format::quantised;
pub(crate) use gguf::Gguf;
pub use model_files::ModelFiles;
pub use safetensors::write_safetensors;

/// Names per kind of trouble that [`Weights::check`] lists before it counts the rest.
const LISTED: usize = 8;

/// The tensors of a model.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    files: Vec<Mapped>,
    entries: BTreeMap<String, Entry>,
    /// A GGUF file is hashed as it is; a directory's hash is that of its shards' hashes.
    single: bool,
    fingerprint: OnceLock<String>,
}

#[derive(Debug)]
struct Entry {
    file: usize,
    shape: Vec<usize>,
    encoding: Option<Encoding>,
    /// The element type in the file's words.
    dtype: String,
    offset: usize,
    bytes: usize,
    /// Not 0: rows are interleaved as llama.cpp keeps q and k, with this head size.
    head_dim: usize,
}

impl Weights {
    /// Opens an HF directory (`model.safetensors`, or shards with `model.safetensors.index.json`) or a `.gguf` file.
    ///
    /// Only headers are read. Errors: unreadable files; headers that contradict themselves or their file's size; GGUF
    /// tensors of a type other than F32, F16, BF16, Q8_0, Q4_0, Q4_1; GGUF files of another architecture than llama.
    pub fn open(path: &Path) -> Result<Weights> {
        if is_gguf(path)? {
            let gguf = Gguf::open(path)?;
            let config = Config::from_gguf(&gguf)?;
            return Weights::from_gguf(gguf, &config);
        }
        let mut weights = Weights {
            path: path.to_owned(),
            files: Vec::new(),
            entries: BTreeMap::new(),
            single: false,
            fingerprint: OnceLock::new(),
        };
        for (file, tensors) in safetensors::open(path)? {
            for (name, t) in tensors {
                if weights.entries.contains_key(&name) {
                    return Err(Error::file(
                        &file.path,
                        &name,
                        "a tensor of another shard again",
                        "each tensor once",
                    ));
                }
                let entry = Entry {
                    file: weights.files.len(),
                    shape: t.shape,
                    encoding: t.encoding,
                    dtype: t.dtype,
                    offset: t.offset,
                    bytes: t.bytes,
                    head_dim: 0,
                };
                weights.entries.insert(name, entry);
            }
            weights.files.push(file);
        }
        Ok(weights)
    }

    /// The tensors of a parsed GGUF file under their HF names. `config` is the one of the same file.
    pub(crate) fn from_gguf(gguf: Gguf, config: &Config) -> Result<Weights> {
        let mut entries = BTreeMap::new();
        for (name, t) in gguf.tensors {
            let hf = names::to_hf(&name);
            let heads = match names::permuted(&name) {
                Some(names::Heads::Query) => Some(config.num_heads),
                Some(names::Heads::Key) => Some(config.num_kv_heads),
                None => None,
            };
            let rows = t.shape.first().copied().unwrap_or(0);
            if let Some(heads) = heads.filter(|h| h.checked_mul(config.head_dim) != Some(rows)) {
                let want = format!("{heads} heads of {} rows", config.head_dim);
                return Err(Error::file(&gguf.file.path, &name, format!("shape {:?}", t.shape), want));
            }
            let entry = Entry {
                file: 0,
                shape: t.shape,
                encoding: Some(t.encoding),
                dtype: format!("{:?}", t.encoding),
                offset: t.offset,
                bytes: t.bytes,
                head_dim: if heads.is_some() { config.head_dim } else { 0 },
            };
            if entries.insert(hf.clone(), entry).is_some() {
                return Err(Error::file(
                    &gguf.file.path,
                    &name,
                    format!("{hf} a second time"),
                    "each tensor once",
                ));
            }
        }
        Ok(Weights {
            path: gguf.file.path.clone(),
            files: vec![gguf.file],
            entries,
            single: true,
            fingerprint: OnceLock::new(),
        })
    }

    /// The directory or file these weights are from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All names, sorted, in HF spelling (`model.layers.0.self_attn.q_proj.weight`). Tensors of a GGUF file that have
    /// no HF name keep theirs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Row-major dimensions as HF has them: `[out, in]` for a projection.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.shape.as_slice())
    }

    /// The element type in the file (`F32`, `BF16`, `Q4_1`, ...), before [`Weights::read`] converts it.
    pub fn stored_dtype(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(|e| e.dtype.as_str())
    }

    /// Bytes the tensor takes in its file.
    pub fn stored_bytes(&self, name: &str) -> Option<usize> {
        self.entries.get(name).map(|e| e.bytes)
    }

    /// A tensor: bf16 as bf16, everything else (f32, f16, quantised blocks) as f32; rows in HF order.
    ///
    /// Errors: no such name, more than four dimensions, an element type without conversion, an element that is NaN or
    /// infinite.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let (entry, file) = self.entry(name)?;
        let error = |got: String, want: &str| Error::file(&file.path, name, got, want);
        let Some(encoding) = entry.encoding else {
            return Err(error(format!("dtype {}", entry.dtype), "F32, F16 or BF16"));
        };
        if entry.shape.len() > 4 {
            return Err(error(format!("{} dimensions", entry.shape.len()), "at most 4"));
        }
        let bytes = &file.bytes()[entry.offset..entry.offset + entry.bytes];
        decode(encoding, &entry.shape, bytes, entry.head_dim)
            .map_err(|at| error(format!("NaN or infinity at element {at}"), "finite numbers"))
    }

    fn entry(&self, name: &str) -> Result<(&Entry, &Mapped)> {
        let entry = self.entries.get(name);
        let entry = entry.ok_or_else(|| Error::file(&self.path, name, "nothing", "a tensor"))?;
        Ok((entry, &self.files[entry.file]))
    }

    /// A weight [N, K] as quantised blocks, row by row in HF order: the file's own where they are in this format, else
    /// made of its values as ggml's reference does.
    ///
    /// Errors: as [`Weights::read`]; another rank, K no multiple of 32.
    pub fn blocks(&self, name: &str, quant: Quant) -> Result<Vec<u8>> {
        let (entry, file) = self.entry(name)?;
        let error = |got: String, want: String| Error::file(&file.path, name, got, want);
        let [_, k] = entry.shape[..] else {
            return Err(error(format!("shape {:?}", entry.shape), "a matrix".into()));
        };
        if !k.is_multiple_of(32) {
            let want = format!("rows of a multiple of 32, for {quant}");
            return Err(error(format!("shape {:?}", entry.shape), want));
        }
        if entry.encoding != Some(Encoding::from(quant)) {
            return Ok(quant.quantise(self.read(name)?.view())?);
        }
        let bytes = &file.bytes()[entry.offset..entry.offset + entry.bytes];
        decode::rows(quant, k, bytes, entry.head_dim)
            .map_err(|at| error(format!("NaN or infinity at element {at}"), "finite numbers".into()))
    }

    /// Compares names and shapes with those the model needs and reports all differences in one error.
    ///
    /// Rotary `inv_freq` buffers and a GGUF's `rope_freqs.weight` are never unexpected, nor is `lm_head.weight` where
    /// `expected` does not have it (tied embeddings).
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<()> {
        let wanted: BTreeMap<&str, &[usize]> =
            expected.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
        let mut missing = List::new("missing");
        let mut misshapen = List::new("misshapen");
        let mut unexpected = List::new("unexpected");
        for (name, want) in &wanted {
            match self.shape(name) {
                None => missing.push(|| (*name).to_owned()),
                Some(got) if got != *want => {
                    misshapen.push(|| format!("{name} (got {got:?}, want {want:?})"))
                }
                Some(_) => {}
            }
        }
        for name in self.names().filter(|n| !wanted.contains_key(n) && !spare(n)) {
            unexpected.push(|| name.to_owned());
        }
        let report: Vec<_> = [missing, misshapen, unexpected].iter().filter_map(List::report).collect();
        if report.is_empty() {
            return Ok(());
        }
        Err(Error::Tensors { file: crate::error::show_path(&self.path), report: report.join("; ") })
    }

    /// Hex SHA-256 that identifies these weights: of the file for GGUF; for a directory, of the sorted hex hashes of
    /// its shards, one per line. Computed at the first call (about a third of a second per 500 MB with SHA
    /// instructions).
    pub fn fingerprint(&self) -> Result<String> {
        let compute = || {
            let mut hashes: Vec<_> = self.files.iter().map(|f| hex(&f.sha256())).collect();
            if self.single {
                return hashes.pop().unwrap_or_default();
            }
            hashes.sort();
            hex(&Sha256::digest(hashes.join("\n").as_bytes()))
        };
        Ok(self.fingerprint.get_or_init(compute).clone())
    }
}

/// A file is GGUF by its first bytes or its name; a directory is not.
pub(crate) fn is_gguf(path: &Path) -> Result<bool> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, "open", &e))?;
    if meta.is_dir() {
        return Ok(false);
    }
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        return Ok(true);
    }
    Err(Error::file(path, "file name", "a file that is no .gguf", "an HF directory or a .gguf file"))
}

fn spare(name: &str) -> bool {
    name == "lm_head.weight" || name == names::ROPE_FREQS || name.ends_with("rotary_emb.inv_freq")
}

/// The first few names of a kind, and how many there were.
struct List {
    kind: &'static str,
    names: Vec<String>,
    count: usize,
}

impl List {
    fn new(kind: &'static str) -> List {
        List { kind, names: Vec::new(), count: 0 }
    }

    fn push(&mut self, name: impl Fn() -> String) {
        self.count += 1;
        if self.names.len() < LISTED {
            self.names.push(crate::error::one_line(&name()));
        }
    }

    fn report(&self) -> Option<String> {
        let more = self.count - self.names.len();
        match (self.count, more) {
            (0, _) => None,
            (_, 0) => Some(format!("{} {}", self.kind, self.names.join(", "))),
            _ => Some(format!("{} {} and {more} more", self.kind, self.names.join(", "))),
        }
    }
}
