//! Texts as tokens on disk: a file that is mapped, so that a corpus of any size is tokenised once and never copied.
//!
//! `DSLATOK1`, the number of tokens as u64, then the tokens as u32, all little-endian.

use crate::adapter::write_atomic;
use crate::weights::Mapped;
use crate::{Error, Result};
use std::path::Path;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"DSLATOK1";
const HEAD: usize = 16;

/// Tokens of one text, in memory or mapped from a file. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Tokens(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Memory(Arc<Vec<u32>>),
    File(Arc<Mapped>),
}

impl Tokens {
    /// Write tokens to a file, which appears whole or not at all.
    ///
    /// Errors: a file that cannot be written.
    pub fn write(path: &Path, tokens: &[u32]) -> Result<()> {
        let mut bytes = Vec::with_capacity(HEAD + 4 * tokens.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(tokens.len() as u64).to_le_bytes());
        tokens.iter().for_each(|t| bytes.extend_from_slice(&t.to_le_bytes()));
        write_atomic(path, &bytes)
    }

    /// Map a file that [`Tokens::write`] wrote.
    ///
    /// Errors: a file that cannot be read, or that is none of ours or not whole.
    pub fn open(path: &Path) -> Result<Tokens> {
        let file = Mapped::open(path)?;
        let map = file.bytes();
        let count = match (map.get(..8), map.get(8..HEAD)) {
            (Some(magic), Some(count)) if magic == MAGIC => count.try_into().map(u64::from_le_bytes).ok(),
            _ => None,
        };
        let Some(count) = count else {
            return Err(Error::file(path, "start", "another kind of file", "a file of tokens"));
        };
        let want = (count as usize).checked_mul(4).and_then(|n| n.checked_add(HEAD));
        if want != Some(map.len()) || bytemuck::try_cast_slice::<u8, u32>(&map[HEAD..]).is_err() {
            let got = format!("{} bytes", map.len());
            return Err(Error::file(path, "length", got, format!("{count} tokens")));
        }
        Ok(Tokens(Kind::File(Arc::new(file))))
    }

    /// The tokens.
    pub fn get(&self) -> &[u32] {
        match &self.0 {
            Kind::Memory(tokens) => tokens,
            // Checked when it was opened.
            Kind::File(file) => bytemuck::try_cast_slice(&file.bytes()[HEAD..]).unwrap_or(&[]),
        }
    }
}

impl From<Vec<u32>> for Tokens {
    fn from(tokens: Vec<u32>) -> Tokens {
        Tokens(Kind::Memory(Arc::new(tokens)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_tokens_come_back_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tokens");
        let tokens: Vec<u32> = (0..1000).map(|i| i * 7).collect();
        for n in [0, 1, 1000] {
            Tokens::write(&path, &tokens[..n]).unwrap();
            assert_eq!(Tokens::open(&path).unwrap().get(), &tokens[..n]);
        }
        let bytes = std::fs::read(&path).unwrap();
        let mut huge = bytes.clone();
        huge[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        for damaged in [
            &bytes[..7],
            &bytes[..15],
            &bytes[..1001],
            &[&bytes[..], &[0]].concat(),
            &huge,
            b"GGUF12345678901234",
        ] {
            std::fs::write(&path, damaged).unwrap();
            let e = Tokens::open(&path).unwrap_err().to_string();
            assert!(e.contains("a.tokens") && !e.contains('\n'), "{e}");
        }
    }
}
