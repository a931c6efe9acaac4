//! Text that comes out token by token, in whole characters.

use super::Tokenizer;
use crate::Result;

/// Tokens kept when a run of undecodable bytes is cut: three maximal broken sequences take nine bytes at most.
const KEPT: usize = 12;
/// Undecodable tokens in a row before the window is cut, so that a step costs the same at any length.
const LONGEST: usize = 32;
/// Marks at the end of a text that may still become one character: a byte-fallback decoder writes one per byte.
const HELD: usize = 3;

/// Incremental decoding. What `push` and `finish` return, put together, is `decode` of all ids; no piece ends inside
/// a UTF-8 character.
///
/// A token's text can depend on the one before it (a leading space is dropped at the start of a text), so the window
/// decoded at each step begins with the last token that was already given out.
#[derive(Clone, Debug, Default)]
pub struct DecodeStream {
    skip_special: bool,
    window: Vec<u32>,
    /// Bytes of the window's text that were given out.
    sent: usize,
}

impl DecodeStream {
    /// An empty stream. `skip_special` leaves special tokens out of the text.
    pub fn new(skip_special: bool) -> DecodeStream {
        DecodeStream { skip_special, ..DecodeStream::default() }
    }

    /// The text that `id` completes, possibly empty. All calls must be given the same tokenizer.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        self.window.push(id);
        let text = tokenizer.decode(&self.window, self.skip_special)?;
        let whole = whole_characters(&text);
        let new = text.get(self.sent..whole).unwrap_or("").to_owned();
        self.sent = self.sent.max(whole);
        if whole == text.len() {
            self.window = vec![id];
            self.sent = tokenizer.decode(&self.window, self.skip_special)?.len();
        } else if self.window.len() > LONGEST {
            let held = text.len().saturating_sub(self.sent);
            self.window.drain(..self.window.len() - KEPT);
            self.sent = tokenizer.decode(&self.window, self.skip_special)?.len().saturating_sub(held);
        }
        Ok(new)
    }

    /// What is left at the end: bytes that never became a character, as U+FFFD. The stream is empty afterwards.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let text = tokenizer.decode(&self.window, self.skip_special)?;
        let rest = text.get(self.sent..).unwrap_or("").to_owned();
        self.window.clear();
        self.sent = 0;
        Ok(rest)
    }
}

/// Bytes of `text` before the replacement marks that may be an unfinished character.
fn whole_characters(text: &str) -> usize {
    let marks = text.chars().rev().take(HELD).take_while(|&c| c == char::REPLACEMENT_CHARACTER).count();
    text.len() - marks * char::REPLACEMENT_CHARACTER.len_utf8()
}
