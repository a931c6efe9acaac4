//! Files as bytes: small texts read whole, weights mapped.

use crate::{Error, Result};
use memmap2::Mmap;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The text of a file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    let file = File::open(path).map_err(|e| Error::io(path, "open", &e))?;
    let mut bytes = Vec::new();
    // One byte beyond the limit tells a file at the limit from a longer one (or from an endless device).
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", &e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::file(path, "size", "more", format!("at most {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| {
        Error::file(path, format!("byte {}", e.utf8_error().valid_up_to()), "invalid UTF-8", "UTF-8 text")
    })
}

/// As [`read_text`]; a file that does not exist is `None`.
pub(crate) fn read_text_if_there(path: &Path, limit: u64) -> Result<Option<String>> {
    if path.exists() { read_text(path, limit).map(Some) } else { Ok(None) }
}

/// A file mapped for reading.
#[derive(Debug)]
pub(crate) struct Mapped {
    pub path: PathBuf,
    map: Mmap,
}

impl Mapped {
    pub fn open(path: &Path) -> Result<Mapped> {
        let file = File::open(path).map_err(|e| Error::io(path, "open", &e))?;
        let meta = file.metadata().map_err(|e| Error::io(path, "open", &e))?;
        if !meta.is_file() {
            return Err(Error::file(path, "file type", "something else", "a regular file"));
        }
        if meta.len() == 0 {
            return Err(Error::file(path, "size", "0 bytes", "a weights file"));
        }
        // SAFETY: the map is private and read-only, and it lives as long as every slice taken of it (`bytes` borrows
        // `self`). What no program can rule out is another one truncating the file meanwhile: reads beyond the new
        // end then raise SIGBUS. Weights are replaced by rename, not in place (HABITS: nothing is ever half-written),
        // and a rename leaves this map whole.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", &e))?;
        Ok(Mapped { path: path.to_owned(), map })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.bytes()).into()
    }
}

/// The hash of a file's bytes.
pub(crate) fn file_sha256(path: &Path) -> Result<[u8; 32]> {
    Mapped::open(path).map(|m| m.sha256())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|d| char::from_digit(u32::from(d), 16)).collect()
}
