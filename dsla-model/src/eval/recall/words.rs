//! Short common words that the tasks put together.

use dsla_core::kernels::case::Rng;

pub const NAMES: [&str; 40] = [
    "Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Irene", "Jack", "Karen", "Leo",
    "Maria", "Nathan", "Olivia", "Paul", "Queenie", "Robert", "Sarah", "Thomas", "Ursula", "Victor", "Wendy",
    "Xavier", "Yvonne", "Zoe", "Alice", "Brian", "Diana", "Edward", "Fiona", "George", "Helen", "Ivan",
    "Julia", "Kevin", "Laura", "Martin", "Nora", "Oscar",
];

pub const SURNAMES: [&str; 40] = [
    "Adams",
    "Baker",
    "Carter",
    "Dixon",
    "Evans",
    "Foster",
    "Gray",
    "Hill",
    "Irving",
    "Jones",
    "King",
    "Lewis",
    "Moore",
    "Nelson",
    "Owen",
    "Parker",
    "Quinn",
    "Reed",
    "Smith",
    "Turner",
    "Underwood",
    "Vance",
    "White",
    "Young",
    "Allen",
    "Brown",
    "Clark",
    "Davis",
    "Ellis",
    "Fisher",
    "Green",
    "Harris",
    "Jackson",
    "Knight",
    "Lee",
    "Mason",
    "Newton",
    "Price",
    "Russell",
    "Scott",
];

pub const ADJECTIVES: [&str; 40] = [
    "red", "blue", "green", "black", "white", "brown", "grey", "pink", "small", "large", "old", "new",
    "round", "flat", "long", "short", "warm", "cold", "dry", "wet", "soft", "hard", "light", "heavy",
    "clean", "dusty", "sharp", "blunt", "thick", "thin", "empty", "full", "cheap", "rare", "plain", "bright",
    "dark", "quiet", "loud", "broken",
];

pub const NOUNS: [&str; 40] = [
    "lamp", "table", "chair", "door", "window", "cup", "plate", "spoon", "knife", "bottle", "box", "bag",
    "coat", "shoe", "hat", "ring", "clock", "book", "pen", "letter", "map", "key", "bell", "drum", "ball",
    "rope", "wheel", "boat", "cart", "train", "house", "tower", "bridge", "garden", "tree", "stone", "river",
    "cloud", "bird", "horse",
];

pub const VARIABLES: [&str; 20] = [
    "AXL", "BRO", "CEP", "DIF", "EKO", "FUM", "GAV", "HEX", "IPS", "JOT", "KIV", "LUM", "MOX", "NUB", "OLP",
    "PAZ", "QUR", "RIN", "SOV", "TAW",
];

/// `n` different words, at most all.
pub fn pick<'a>(words: &[&'a str], n: usize, rng: &mut Rng) -> Vec<&'a str> {
    let mut all = words.to_vec();
    shuffle(&mut all, rng);
    all.truncate(n);
    all
}

/// Every "first second", in random order.
pub fn pairs(first: &[&str], second: &[&str], rng: &mut Rng) -> Vec<String> {
    let mut all: Vec<String> =
        first.iter().flat_map(|a| second.iter().map(move |b| format!("{a} {b}"))).collect();
    shuffle(&mut all, rng);
    all
}

/// Fisher and Yates.
fn shuffle<T>(all: &mut [T], rng: &mut Rng) {
    for i in (1..all.len()).rev() {
        all.swap(i, (rng.bits() % (i as u64 + 1)) as usize);
    }
}
