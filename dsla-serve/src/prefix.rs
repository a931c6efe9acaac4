//! The prefix cache: sequences as they were at cuts of their prompts, for requests whose prompts begin the same. Pure:
//! no model, no clock.
//!
//! An entry stands for the tokens up to its cut at one number of converted layers, present from the first token on:
//! hidden states, and with them everything a layer keeps, depend on both. Cuts are multiples of the grain, at which the
//! kernels do not care whether they get a prompt in one piece or in two: what follows a hit has the bits that it would
//! have without. The least recently used entry goes first.

use crate::stats::PrefixStats;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hasher;

/// Tokens that follow a cut at least. Kernels for a few rows (8 queries in attention, 16 rows in a GPU's products) round
/// otherwise than those for many: the rest of a prompt must not fall to them because it was cut.
const TAIL: usize = 17;
/// Prefixes that are remembered without their states.
const SEEN: usize = 1 << 16;

/// The last cut of a prompt; 0 when it is too short for any.
pub(crate) fn last_cut(prompt: usize, grain: usize) -> usize {
    prompt.saturating_sub(TAIL) / grain * grain
}

/// What a snapshot keeps in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Bytes of its own.
    pub own: usize,
    /// Pages that other snapshots may hold too: address and bytes.
    pub pages: Vec<(usize, usize)>,
}

#[derive(Debug)]
struct Entry<S> {
    tokens: Vec<u32>,
    converted: usize,
    snapshot: S,
    weight: Weight,
    /// When it was last used: its key in the order of use.
    used: u64,
}

/// Where an entry is.
#[derive(Clone, Copy)]
struct Hit {
    /// Its tokens.
    at: usize,
    hash: u64,
    used: u64,
}

/// What the cache knows of a prompt.
#[derive(Debug)]
pub(crate) struct Found<'a, S> {
    /// Tokens of the longest entry that serves, and what they led to.
    pub hit: Option<(usize, &'a S)>,
    /// Tokens of the longest prefix that has come before, served or not: worth a cut.
    pub seen: usize,
}

/// Snapshots within a byte bound.
#[derive(Debug)]
pub(crate) struct Prefixes<S> {
    grain: usize,
    limit: usize,
    /// By the hash of their tokens; a hash alone is never believed.
    entries: HashMap<u64, Vec<Entry<S>>>,
    /// Hashes in order of use.
    order: BTreeMap<u64, u64>,
    clock: u64,
    /// Entries that hold a page.
    pages: HashMap<usize, usize>,
    seen: HashSet<u64>,
    seen_order: VecDeque<u64>,
    stats: PrefixStats,
}

impl<S> Prefixes<S> {
    /// grain: cuts are multiples of it, 1 or more. limit: bytes, 0 keeps nothing.
    pub fn new(grain: usize, limit: usize) -> Prefixes<S> {
        Prefixes {
            grain,
            limit,
            entries: HashMap::new(),
            order: BTreeMap::new(),
            clock: 0,
            pages: HashMap::new(),
            seen: HashSet::new(),
            seen_order: VecDeque::new(),
            stats: PrefixStats::default(),
        }
    }

    pub fn stats(&self) -> PrefixStats {
        PrefixStats { entries: self.order.len(), ..self.stats }
    }

    /// The longest entry for the first tokens of `prompt`, `most` at most, computed at `converted` layers. `first`: the
    /// request asks for the first time, which counts.
    pub fn find(&mut self, prompt: &[u32], converted: usize, most: usize, first: bool) -> Found<'_, S> {
        let hashes = self.chain(prompt, most);
        let (hit, other) = self.longest(&hashes, prompt, converted);
        let seen =
            hashes.iter().rposition(|hash| self.seen.contains(hash)).map_or(0, |i| (i + 1) * self.grain);
        let short = hashes.is_empty();
        hashes.into_iter().for_each(|hash| self.note(hash));
        let at = hit.map_or(0, |hit| hit.at);
        if first {
            self.stats.queries += prompt.len() as u64;
            self.stats.hits += at as u64;
            self.stats.other_rate += other.saturating_sub(at) as u64;
            self.stats.too_short += if short { prompt.len() as u64 } else { 0 };
            self.stats.not_kept += seen.saturating_sub(at.max(other)) as u64;
        }
        let hit = hit.and_then(|hit| Some((hit.at, &self.touch(hit.hash, hit.used)?.snapshot)));
        Found { hit, seen }
    }

    /// Tokens of the entry that [`Prefixes::find`] would find.
    pub fn peek(&self, prompt: &[u32], converted: usize, most: usize) -> usize {
        self.longest(&self.chain(prompt, most), prompt, converted).0.map_or(0, |hit| hit.at)
    }

    /// The longest entry at this number of layers, and the tokens of the longest at any.
    fn longest(&self, hashes: &[u64], prompt: &[u32], converted: usize) -> (Option<Hit>, usize) {
        let mut other = 0;
        for (i, &hash) in hashes.iter().enumerate().rev() {
            let at = (i + 1) * self.grain;
            let same = |e: &&Entry<S>| e.tokens == prompt[..at];
            let mut known = self.entries.get(&hash).into_iter().flatten().filter(same).peekable();
            if known.peek().is_some() {
                other = other.max(at);
            }
            if let Some(entry) = known.find(|e| e.converted == converted) {
                return (Some(Hit { at, hash, used: entry.used }), other);
            }
        }
        (None, other)
    }

    /// Whether a snapshot of `bytes` could be kept at all.
    pub fn takes(&self, bytes: usize) -> bool {
        bytes <= self.limit
    }

    /// Whether there is an entry for `tokens`, which then counts as used.
    pub fn holds(&mut self, tokens: &[u32], converted: usize) -> bool {
        let Some((hash, used)) = self.locate(tokens, converted) else { return false };
        self.touch(hash, used).is_some()
    }

    /// Keeps a snapshot of a sequence that has taken in `tokens`, a whole number of grains, if it fits at all.
    pub fn insert(&mut self, tokens: &[u32], converted: usize, snapshot: S, weight: Weight) {
        let alone = weight.own + weight.pages.iter().map(|p| p.1).sum::<usize>();
        let Some(&hash) = self.chain(tokens, tokens.len()).last() else { return };
        if !self.takes(alone) || self.holds(tokens, converted) {
            return;
        }
        self.stats.bytes += weight.own;
        for (page, bytes) in &weight.pages {
            let holders = self.pages.entry(*page).or_default();
            self.stats.bytes += if *holders == 0 { *bytes } else { 0 };
            *holders += 1;
        }
        let used = self.tick(hash);
        let entry = Entry { tokens: tokens.to_vec(), converted, snapshot, weight, used };
        self.entries.entry(hash).or_default().push(entry);
        self.shrink();
    }

    /// From now on `limit` bytes at most.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.stats.bytes > self.limit && self.evict() {}
    }

    /// Drops the least recently used entry; whether there was one.
    fn evict(&mut self) -> bool {
        let Some((used, hash)) = self.order.pop_first() else { return false };
        let Some(bucket) = self.entries.get_mut(&hash) else { return false };
        let Some(at) = bucket.iter().position(|e| e.used == used) else { return false };
        let entry = bucket.swap_remove(at);
        if bucket.is_empty() {
            self.entries.remove(&hash);
        }
        self.stats.bytes -= entry.weight.own;
        for (page, bytes) in &entry.weight.pages {
            let Some(holders) = self.pages.get_mut(page) else { continue };
            *holders -= 1;
            if *holders == 0 {
                self.stats.bytes -= *bytes;
                self.pages.remove(page);
            }
        }
        self.stats.evictions += 1;
        true
    }

    /// Hash and last use of the entry for `tokens`.
    fn locate(&self, tokens: &[u32], converted: usize) -> Option<(u64, u64)> {
        let hash = *self.chain(tokens, tokens.len()).last()?;
        let entry =
            self.entries.get(&hash)?.iter().find(|e| e.converted == converted && e.tokens == tokens)?;
        Some((hash, entry.used))
    }

    /// Makes an entry the most recently used one.
    fn touch(&mut self, hash: u64, used: u64) -> Option<&Entry<S>> {
        self.order.remove(&used);
        let now = self.tick(hash);
        let entry = self.entries.get_mut(&hash)?.iter_mut().find(|e| e.used == used)?;
        entry.used = now;
        Some(entry)
    }

    fn tick(&mut self, hash: u64) -> u64 {
        self.clock += 1;
        self.order.insert(self.clock, hash);
        self.clock
    }

    fn note(&mut self, hash: u64) {
        if self.seen.insert(hash) {
            self.seen_order.push_back(hash);
        }
        if self.seen_order.len() > SEEN
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
    }

    /// Hashes of the first one, two, ... grains of `tokens`, up to `most` tokens.
    fn chain(&self, tokens: &[u32], most: usize) -> Vec<u64> {
        let whole = tokens[..most.min(tokens.len())].chunks_exact(self.grain);
        let next = |before: &mut u64, grain: &[u32]| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(*before);
            grain.iter().for_each(|&token| hasher.write_u32(token));
            *before = hasher.finish();
            Some(*before)
        };
        whole.scan(0, next).collect()
    }
}

#[cfg(test)]
mod tests;
