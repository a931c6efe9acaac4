use super::*;
use proptest::prelude::*;

/// A snapshot that says what it is of.
type Cache = Prefixes<(Vec<u32>, usize)>;

fn own(bytes: usize) -> Weight {
    Weight { own: bytes, pages: vec![] }
}

fn put(cache: &mut Cache, tokens: &[u32], converted: usize, bytes: usize) {
    cache.insert(tokens, converted, (tokens.to_vec(), converted), own(bytes));
}

/// Tokens of the hit.
fn find(cache: &mut Cache, prompt: &[u32], converted: usize) -> usize {
    let peeked = cache.peek(prompt, converted, prompt.len());
    let found = cache.find(prompt, converted, prompt.len(), true);
    assert_eq!(found.hit.map_or(0, |h| h.0), peeked);
    let Some((at, snapshot)) = found.hit else { return 0 };
    assert_eq!(snapshot, &(prompt[..at].to_vec(), converted), "of these tokens at this rate");
    at
}

#[test]
fn the_last_cut_leaves_a_tail_for_the_large_kernels() {
    let cut = |prompt| last_cut(prompt, 64);
    assert_eq!([0, 17, 80, 81, 144, 145, 600].map(cut), [0, 0, 0, 64, 64, 128, 576]);
}

#[test]
fn the_longest_at_the_same_rate() {
    let mut c = Cache::new(2, 100);
    let prompt = [1, 2, 3, 4, 5, 6, 7];
    put(&mut c, &prompt[..2], 0, 1);
    put(&mut c, &prompt[..4], 0, 1);
    put(&mut c, &prompt[..6], 3, 1);
    assert_eq!(find(&mut c, &prompt, 0), 4);
    assert_eq!(find(&mut c, &prompt, 3), 6);
    assert_eq!(find(&mut c, &prompt, 1), 0);
    assert_eq!(c.find(&prompt, 0, 3, true).hit.map(|h| h.0), Some(2), "3 at most");
    assert_eq!(find(&mut c, &[1, 2, 3, 9, 5], 0), 2);
    assert_eq!(find(&mut c, &[9, 2, 3, 4], 0), 0);
    let s = c.stats();
    assert_eq!((s.queries, s.hits), (7 * 4 + 5 + 4, 4 + 6 + 2 + 2));
    assert_eq!(s.other_rate, 2 + 6, "of the first at 3 layers, of the third at 3 and 0");
    assert_eq!((s.entries, s.too_short), (3, 0));
    assert_eq!(c.find(&[1, 2, 3], 0, 1, true).seen, 0);
    assert_eq!(c.stats().too_short, 3, "nobody wonders why nothing hits");
}

#[test]
fn what_came_before_is_known_without_a_snapshot() {
    let mut c = Cache::new(2, 100);
    assert_eq!(c.find(&[1, 2, 3, 4, 5, 6], 0, 4, true).seen, 0);
    assert_eq!(c.find(&[1, 2, 3, 4, 7, 8], 0, 6, true).seen, 4);
    assert_eq!(c.find(&[1, 2, 9, 9, 7, 8], 0, 6, false).seen, 2);
    assert_eq!(c.stats().not_kept, 4, "asking again is not counted");
    for i in 0..SEEN as u32 {
        c.find(&[100 + i, 0], 0, 2, false);
    }
    assert_eq!(c.seen.len(), SEEN);
    assert_eq!(c.find(&[1, 2], 0, 2, false).seen, 0, "forgotten in the end");
}

#[test]
fn the_least_recently_used_goes_first() {
    let mut c = Cache::new(1, 3);
    (1..=3).for_each(|t| put(&mut c, &[t], 0, 1));
    assert_eq!(find(&mut c, &[1], 0), 1);
    assert!(c.holds(&[2], 0), "a look counts as use too");
    put(&mut c, &[4], 0, 1);
    assert_eq!([1, 2, 3, 4].map(|t| find(&mut c, &[t], 0)), [1, 1, 0, 1]);
    put(&mut c, &[5], 0, 4);
    assert!(!c.takes(4) && !c.holds(&[5], 0), "larger than all");
    c.set_limit(1);
    assert_eq!([1, 2, 4].map(|t| find(&mut c, &[t], 0)), [0, 0, 1]);
    c.set_limit(0);
    assert_eq!((c.stats().entries, c.stats().bytes, c.stats().evictions), (0, 0, 4));
}

#[test]
fn shared_pages_count_once() {
    let mut c = Cache::new(1, 100);
    let weight = |pages: &[usize]| Weight { own: 1, pages: pages.iter().map(|p| (*p, 10)).collect() };
    c.insert(&[1], 0, (vec![1], 0), weight(&[7]));
    c.insert(&[1, 2], 0, (vec![1, 2], 0), weight(&[7, 8]));
    assert_eq!(c.stats().bytes, 22);
    c.set_limit(21);
    assert_eq!(c.stats().bytes, 21, "the page went on with its other holder");
    c.set_limit(20);
    assert_eq!((c.stats().bytes, c.pages.len()), (0, 0));
}

#[test]
fn equal_hashes_are_not_believed() {
    let mut c = Cache::new(1, 100);
    put(&mut c, &[1], 0, 1);
    // As if [2] had the hash of [1].
    let (one, two) = (c.chain(&[1], 1)[0], c.chain(&[2], 1)[0]);
    let bucket = c.entries.remove(&one).expect("an entry");
    c.order.values_mut().for_each(|hash| *hash = two);
    c.entries.insert(two, bucket);
    assert_eq!(find(&mut c, &[2], 0), 0);
    assert!(!c.holds(&[2], 0));
    put(&mut c, &[2], 0, 1);
    assert_eq!(find(&mut c, &[2], 0), 1, "both in one bucket");
    c.set_limit(1);
    assert_eq!((find(&mut c, &[2], 0), c.stats().entries), (1, 1));
}

#[derive(Clone, Debug)]
enum Do {
    Put(Vec<u32>, usize, usize),
    Find(Vec<u32>, usize),
    Limit(usize),
}

fn action() -> impl Strategy<Value = Do> {
    let tokens = || prop::collection::vec(0u32..3, 1..9);
    prop_oneof![
        (tokens(), 0usize..2, 1usize..9).prop_map(|(t, k, b)| Do::Put(t, k, b)),
        (tokens(), 0usize..2).prop_map(|(t, k)| Do::Find(t, k)),
        (1usize..40).prop_map(Do::Limit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Against a list in order of use: never more bytes than allowed, the longest prefix found, the same entries left.
    #[test]
    fn as_a_list_would(actions in prop::collection::vec(action(), 1..60)) {
        let mut c = Cache::new(2, 20);
        let (mut list, mut limit): (Vec<(Vec<u32>, usize, usize)>, usize) = (vec![], 20);
        for action in actions {
            match action {
                Do::Put(tokens, converted, bytes) => {
                    let tokens = &tokens[..tokens.len() / 2 * 2];
                    put(&mut c, tokens, converted, bytes);
                    if !tokens.is_empty() && bytes <= limit {
                        let old = list.iter().position(|e| e.0 == tokens && e.1 == converted);
                        let entry = old.map_or((tokens.to_vec(), converted, bytes), |at| list.remove(at));
                        list.push(entry);
                    }
                }
                Do::Find(prompt, converted) => {
                    let serves = |e: &(Vec<u32>, usize, usize)| e.1 == converted && prompt.starts_with(&e.0);
                    let best = (0..list.len()).filter(|&i| serves(&list[i])).max_by_key(|&i| list[i].0.len());
                    prop_assert_eq!(find(&mut c, &prompt, converted), best.map_or(0, |i| list[i].0.len()));
                    if let Some(at) = best {
                        let entry = list.remove(at);
                        list.push(entry);
                    }
                }
                Do::Limit(bytes) => {
                    limit = bytes;
                    c.set_limit(bytes);
                }
            }
            while list.iter().map(|e| e.2).sum::<usize>() > limit {
                list.remove(0);
            }
            let stats = c.stats();
            prop_assert!(stats.bytes <= limit);
            prop_assert_eq!((stats.entries, stats.bytes), (list.len(), list.iter().map(|e| e.2).sum()));
        }
    }
}
