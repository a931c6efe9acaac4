//! Typed errors: which file, where in it, what came, what was wanted. Each prints as one line.

use std::path::Path;

/// What this crate can refuse.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    #[error("{file}: cannot {action}: {message}")]
    Io {
        /// The file or directory.
        file: String,
        /// What was tried, as a verb.
        action: &'static str,
        /// What the system answered.
        message: String,
    },
    /// A file holds something else than was wanted.
    #[error("{file}: {at}: got {got}, want {want}")]
    File {
        /// The file.
        file: String,
        /// The place in it: a key, a tensor's name.
        at: String,
        /// What came.
        got: String,
        /// What was wanted.
        want: String,
    },
    /// The tensors of a file are not the tensors of the model.
    #[error("{file}: tensors do not fit the model: {report}")]
    Tensors {
        /// The file or directory.
        file: String,
        /// Missing, unexpected and misshapen names together.
        report: String,
    },
    /// Text or ids that the tokenizer cannot turn into the other.
    #[error("tokenizer: {at}: {message}")]
    Tokenizer {
        /// What was tried.
        at: &'static str,
        /// The tokenizer's own words.
        message: String,
    },
    /// A chat template that does not compile, or that refuses these messages.
    #[error("chat template: {message}")]
    Template {
        /// The template engine's own words.
        message: String,
    },
    /// A model name that is neither a path nor known to `fetch`.
    #[error("model {name}: got no such file or directory, want a path or one of: {known}")]
    UnknownModel {
        /// What came.
        name: String,
        /// The names that can be fetched.
        known: String,
    },
    /// A download that did not come about.
    #[error("fetch {name}: {message}")]
    Fetch {
        /// The model's name.
        name: String,
        /// What went wrong, and what would help.
        message: String,
    },
    /// An adapter that does not fit its model.
    #[error("adapter {file}: {at}: got {got}, want {want}")]
    Adapter {
        /// The adapter's file.
        file: String,
        /// The place in it.
        at: String,
        /// What came.
        got: String,
        /// What was wanted.
        want: String,
    },
    /// A plain argument out of range.
    #[error("{op}: {arg}: got {got}, want {want}")]
    Argument {
        /// The function that was called.
        op: &'static str,
        /// The argument at fault.
        arg: &'static str,
        /// What came.
        got: String,
        /// What was wanted.
        want: String,
    },
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] dsla_kernels::Error),
}

/// The result of a call into this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str, error: &std::io::Error) -> Error {
        Error::Io { file: show_path(path), action, message: one_line(&error.to_string()) }
    }

    /// `at`, `got` and `want` may quote the file: they are cut to one printable line here.
    pub(crate) fn file(
        path: &Path,
        at: impl AsRef<str>,
        got: impl AsRef<str>,
        want: impl AsRef<str>,
    ) -> Error {
        Error::File {
            file: show_path(path),
            at: one_line(at.as_ref()),
            got: one_line(got.as_ref()),
            want: one_line(want.as_ref()),
        }
    }
}

pub(crate) fn show_path(path: &Path) -> String {
    clean(&path.display().to_string(), usize::MAX)
}

/// Text from a file, fit for an error message: control characters escaped, cut after 240 characters.
pub(crate) fn one_line(text: &str) -> String {
    clean(text.trim_end(), 240)
}

fn clean(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == limit {
            out.push_str("...");
            break;
        }
        // The two Unicode line separators and the direction overrides reorder or break a terminal line too.
        if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
