//! An HF directory: `model.safetensors`, or shards listed in `model.safetensors.index.json`.

use super::decode::Encoding;
use super::files::{Mapped, read_text_if_there};
use crate::{Error, Result};
use dsla_kernels::Tensor;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX_BYTES: u64 = 1 << 26;

/// Where a tensor lies in its shard; elements this crate has no use for have no encoding.
pub(super) struct Info {
    pub shape: Vec<usize>,
    pub encoding: Option<Encoding>,
    pub dtype: String,
    pub offset: usize,
    pub bytes: usize,
}

/// Write tensors to one safetensors file, f32 whatever they are held in; it appears whole or not at all.
///
/// Errors: a file that cannot be written.
pub fn write_safetensors(path: &Path, tensors: &[(String, &Tensor)]) -> Result<()> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, t)| t.to_vec_f32().iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let view = |((name, t), bytes)| -> Result<(&str, TensorView)> {
        let (name, t, bytes): (&String, &&Tensor, &Vec<u8>) = (name, t, bytes);
        let view = TensorView::new(Dtype::F32, t.dims().to_vec(), bytes);
        Ok((name.as_str(), view.map_err(|e| Error::file(path, name.as_str(), e.to_string(), "a tensor"))?))
    };
    let views =
        tensors.iter().map(|(name, t)| (name, t)).zip(&bytes).map(view).collect::<Result<Vec<_>>>()?;
    let file = safetensors::serialize(views, None)
        .map_err(|e| Error::file(path, "tensors", e.to_string(), "safetensors"))?;
    crate::adapter::write_atomic(path, &file)
}

/// All shards of a directory, in the order of their names, and the tensors of each.
pub(super) fn open(dir: &Path) -> Result<Vec<(Mapped, BTreeMap<String, Info>)>> {
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok(vec![shard(&single)?]);
    }
    let index = dir.join(INDEX);
    let Some(text) = read_text_if_there(&index, MAX_INDEX_BYTES)? else {
        return Err(Error::file(dir, "weights", "nothing", format!("{SINGLE} or {INDEX}")));
    };
    let map = weight_map(&text, &index)?;
    let mut shards = Vec::new();
    for name in map.values().collect::<BTreeSet<_>>() {
        // A name with a path in it would read files outside the directory.
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
            return Err(Error::file(
                &index,
                "weight_map",
                format!("{name:?}"),
                "names of files beside the index",
            ));
        }
        let (file, tensors) = shard(&dir.join(name))?;
        if let Some(lost) = map.iter().find(|(t, s)| *s == name && !tensors.contains_key(*t)) {
            return Err(Error::file(&file.path, lost.0, "nothing", "a tensor: the index lists it here"));
        }
        shards.push((file, tensors));
    }
    Ok(shards)
}

fn weight_map(text: &str, path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_str(text)
        .map_err(|e| Error::file(path, "JSON", e.to_string(), "an object with weight_map"))?;
    if index.weight_map.is_empty() {
        return Err(Error::file(path, "weight_map", "no tensors", "at least one"));
    }
    Ok(index.weight_map)
}

fn shard(path: &Path) -> Result<(Mapped, BTreeMap<String, Info>)> {
    let file = Mapped::open(path)?;
    let tensors = parse(file.bytes(), path)?;
    Ok((file, tensors))
}

fn parse(bytes: &[u8], path: &Path) -> Result<BTreeMap<String, Info>> {
    pre_check(bytes, path)?;
    let (header, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::file(path, "header", e.to_string(), "a valid safetensors header"))?;
    let data = 8 + header;
    let mut out = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let encoding = match info.dtype {
            Dtype::F32 => Some(Encoding::F32),
            Dtype::F16 => Some(Encoding::F16),
            Dtype::BF16 => Some(Encoding::BF16),
            _ => None,
        };
        // The crate compared sizes with shapes; this is about our own arithmetic: the file's bounds, 4 bytes decoded.
        let sound = data + end <= bytes.len()
            && start <= end
            && encoding.is_none_or(|e| e.bytes(&info.shape) == Some(end - start));
        if !sound {
            let got = format!("shape {:?} in bytes {start}..{end}", info.shape);
            return Err(Error::file(path, name, got, "a size that fits"));
        }
        let info = Info {
            shape: info.shape.clone(),
            encoding,
            dtype: format!("{:?}", info.dtype),
            offset: data + start,
            bytes: end - start,
        };
        out.insert(name, info);
    }
    Ok(out)
}

/// Refuses what `safetensors` 0.8 lets pass: a name given twice (it keeps one of them, silently), and end offsets near
/// 2^64 (`validate` adds the header's length to them unchecked: a panic in debug builds, a false match in others).
fn pre_check(bytes: &[u8], path: &Path) -> Result<()> {
    let error = |got: String, want: &str| Error::file(path, "header", got, want);
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(error(format!("{} bytes", bytes.len()), "at least 8"));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().and_then(|n| rest.get(..n));
    let Some(header) = header else {
        return Err(error(format!("a length of {length} bytes"), &format!("at most {}", rest.len())));
    };
    let data = rest.len() - header.len();
    let Header(offsets) = serde_json::from_slice(header)
        .map_err(|e| error(e.to_string(), "a JSON object of tensors, each name once"))?;
    if let Some(end) = offsets.into_iter().find(|&end| end > data as u64) {
        return Err(error(
            format!("a tensor that ends at {end}"),
            &format!("inside the {data} bytes of data"),
        ));
    }
    Ok(())
}

/// The end offset of each tensor of a header.
struct Header(Vec<u64>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Header, D::Error> {
        d.deserialize_map(HeaderVisitor).map(Header)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Vec<u64>, A::Error> {
        #[derive(serde::Deserialize)]
        struct Tensor {
            data_offsets: (u64, u64),
        }
        let (mut seen, mut ends) = (HashSet::new(), Vec::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                ends.push(map.next_value::<Tensor>()?.data_offsets.1);
            }
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("{name} twice")));
            }
        }
        Ok(ends)
    }
}
