//! Kernel sources: a committed template, the axes it is specialised along, and the modules made of it.

use super::{Context, template};
use crate::{Device, Error, Result};
use cudarc::driver::CudaFunction;
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A template and all its specialisations: the product of its axes, without those that `skip` names.
#[derive(Debug)]
pub struct Source {
    /// The op and what the kernels do: `linear_gemm`.
    pub name: &'static str,
    /// The committed text.
    pub text: &'static str,
    /// Constants and the values they take, in order: `&[("T", &["bf16", "f16"]), ("D", &["64", "128"])]`.
    pub axes: &'static [(&'static str, &'static [&'static str])],
    /// Combinations that make no sense, by their values in the order of the axes.
    pub skip: fn(&[&str]) -> bool,
}

/// One specialisation.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Name of the module: the source's, then the values.
    pub name: String,
    /// One per axis.
    pub values: Vec<&'static str>,
}

impl Source {
    /// A source with no specialisations but one, or the product of `axes`.
    pub const fn new(
        name: &'static str,
        text: &'static str,
        axes: &'static [(&'static str, &'static [&'static str])],
    ) -> Source {
        Source { name, text, axes, skip: |_| false }
    }

    /// Every specialisation.
    pub fn variants(&self) -> Vec<Variant> {
        let mut all: Vec<Vec<&'static str>> = vec![vec![]];
        for (_, values) in self.axes {
            all = all.iter().flat_map(|v| values.iter().map(move |x| [&v[..], &[*x]].concat())).collect();
        }
        all.retain(|v| !(self.skip)(v));
        all.into_iter().map(|values| Variant { name: self.module(&values), values }).collect()
    }

    fn module(&self, values: &[&str]) -> String {
        values.iter().fold(self.name.to_string(), |name, v| name + "_" + v)
    }

    /// The PTX of a specialisation.
    ///
    /// Errors: values that are not on the axes ([`Error::Argument`]); a fault of the template itself.
    pub fn expand(&self, values: &[&str]) -> Result<String> {
        let name = self.module(values);
        let known = values.len() == self.axes.len()
            && values.iter().zip(self.axes).all(|(v, (_, all))| all.contains(v))
            && !(self.skip)(values);
        if !known {
            return Err(Error::Argument {
                op: self.name,
                arg: "variant",
                got: name,
                want: format!("one of the {} of {}", self.variants().len(), self.name),
            });
        }
        let constants: Vec<(&str, &str)> =
            self.axes.iter().map(|(n, _)| *n).zip(values.iter().copied()).collect();
        template::expand(self.text, &constants).map_err(|e| Error::Argument {
            op: self.name,
            arg: "template",
            got: e.to_string(),
            want: "a template that expands".into(),
        })
    }
}

/// A loaded kernel and its parameters as the text declares them.
#[derive(Debug)]
pub(super) struct Kernel {
    pub name: &'static str,
    pub function: CudaFunction,
    pub params: Vec<(String, String)>,
    /// Largest dynamic shared memory asked for so far: above 48 KB the driver wants to be told.
    pub shared: Mutex<u32>,
}

/// What is loaded on one device: modules by source and values, kernels by name.
#[derive(Debug, Default)]
pub(super) struct Modules(Mutex<HashMap<Key, Arc<Kernel>>>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    source: &'static str,
    values: Vec<String>,
    entry: &'static str,
}

impl Source {
    /// Names of the kernels of a specialisation.
    ///
    /// Errors: as [`Source::expand`].
    pub fn entries(&self, values: &[&str]) -> Result<Vec<String>> {
        let text = self.expand(values)?;
        let name = |l: &str| {
            l.trim()
                .strip_prefix(".visible .entry ")
                .map(|r| r.split('(').next().unwrap_or(r).trim().to_string())
        };
        Ok(text.lines().filter_map(name).collect())
    }
}

impl Modules {
    pub fn get(
        &self,
        cx: &Context,
        source: &Source,
        values: &[&str],
        entry: &'static str,
    ) -> Result<Arc<Kernel>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Key { source: source.name, values: values.iter().map(|v| v.to_string()).collect(), entry };
        if let Some(k) = all.get(&key) {
            return Ok(k.clone());
        }
        let text = mutated(source, source.expand(values)?);
        let params = signature(&text, entry).ok_or_else(|| missing(cx.device(), source, entry))?;
        let what = || format!("load {}", source.module(values));
        let module = cx.cuda.load_module(Ptx::from_src(text)).map_err(|e| cx.failed(what(), e))?;
        let function = module.load_function(entry).map_err(|e| cx.failed(what(), e))?;
        let kernel = Arc::new(Kernel { name: entry, function, params, shared: Mutex::new(48 * 1024) });
        all.insert(key, kernel.clone());
        Ok(kernel)
    }

    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn missing(device: Device, source: &Source, entry: &str) -> Error {
    Error::Driver {
        device,
        what: format!("kernel {entry}"),
        detail: format!("{} has no such entry", source.name),
    }
}

/// Name and type of each parameter of an entry: what a launch is checked against.
pub(crate) fn signature(text: &str, entry: &str) -> Option<Vec<(String, String)>> {
    let code: String =
        text.lines().map(|l| l.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
    let at = code.match_indices(".entry").find_map(|(at, word)| {
        let rest = code[at + word.len()..].trim_start();
        rest.strip_prefix(entry).filter(|r| !r.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    })?;
    let inside = at.trim_start().strip_prefix('(')?.split(')').next()?;
    let mut params = Vec::new();
    for param in inside.split(',').filter(|p| !p.trim().is_empty()) {
        let mut words = param.split_whitespace();
        words.next().filter(|w| *w == ".param")?;
        let ty = words.next()?.trim_start_matches('.').to_string();
        params.push((words.last()?.to_string(), ty));
    }
    Some(params)
}

/// A planted fault: in one entry of one source, the first occurrence of a text becomes another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// Name of the source.
    pub source: String,
    /// The kernel.
    pub entry: String,
    /// A text that occurs in the expanded kernel.
    pub from: String,
    /// What it becomes.
    pub to: String,
}

static MUTATION: Mutex<Option<Mutation>> = Mutex::new(None);

/// Plant a fault in every module loaded from now on, or stop doing so: the mutation suite's way in. Loaded kernels are
/// forgotten.
pub fn mutate(mutation: Option<Mutation>) {
    *MUTATION.lock().unwrap_or_else(PoisonError::into_inner) = mutation;
    for c in super::CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        c.modules.clear();
    }
}

fn mutated(source: &Source, text: String) -> String {
    match &*MUTATION.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(m) if m.source == source.name => m.apply(&text).unwrap_or(text),
        _ => text,
    }
}

impl Mutation {
    /// The text with the fault in it; None where it does not occur.
    pub fn apply(&self, text: &str) -> Option<String> {
        let begin = entry_at(text, &self.entry)?;
        let end = text[begin + 6..].find(".entry").map_or(text.len(), |at| begin + 6 + at);
        let at = begin + text[begin..end].find(&self.from)?;
        Some(format!("{}{}{}", &text[..at], self.to, &text[at + self.from.len()..]))
    }
}

/// Where `.entry NAME` stands.
fn entry_at(text: &str, entry: &str) -> Option<usize> {
    text.match_indices(".entry").map(|(at, _)| at).find(|at| {
        let rest = text[at + 6..].trim_start();
        rest.strip_prefix(entry).is_some_and(|r| !r.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    })
}
