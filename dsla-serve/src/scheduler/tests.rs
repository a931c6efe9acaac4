use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn request(id: u64, prompt: usize, max_tokens: usize) -> Waiting {
    Waiting { id, prompt, total: prompt + max_tokens, pinned: None }
}

fn scheduler(max_running: usize, prefill_chunk: usize, budget: Option<usize>) -> Scheduler {
    Scheduler::new(Limits { max_running, prefill_chunk, budget })
}

fn ids(admitted: &[Waiting]) -> Vec<u64> {
    admitted.iter().map(|w| w.id).collect()
}

fn plan(s: &Scheduler) -> Vec<(u64, usize)> {
    s.plan().iter().map(|p| (p.id, p.tokens)).collect()
}

fn run(s: &mut Scheduler) -> Vec<(u64, usize)> {
    let steps = s.plan();
    steps.iter().for_each(|&p| s.fed(p));
    steps.iter().map(|p| (p.id, p.tokens)).collect()
}

#[test]
fn prompts_in_chunks_among_decodes() {
    let mut s = scheduler(4, 8, None);
    s.enqueue(request(0, 3, 9));
    s.enqueue(request(1, 20, 9));
    assert_eq!(ids(&s.admit(|_| 0)), [0, 1]);
    // 8 more tokens of request 1 do not fit beside 3 of request 0, and a shorter piece would depend on request 0.
    assert_eq!(run(&mut s), [(0, 3)]);
    assert_eq!(run(&mut s), [(0, 1), (1, 8)]);
    assert_eq!(run(&mut s), [(0, 1), (1, 8)]);
    assert_eq!(run(&mut s), [(0, 1), (1, 4)]);
    assert_eq!(run(&mut s), [(0, 1), (1, 1)]);
}

#[test]
fn short_prompts_share_a_step_and_do_not_overtake() {
    let mut s = scheduler(4, 8, None);
    for (id, prompt) in [(0, 3), (1, 5), (2, 6), (3, 1)] {
        s.enqueue(request(id, prompt, 1));
    }
    s.admit(|_| 0);
    assert_eq!(plan(&s), [(0, 3), (1, 5)]);
}

#[test]
fn the_head_waits_for_bytes_and_nobody_overtakes_it() {
    let mut s = scheduler(4, 8, Some(100));
    for (id, total) in [(0, 60), (1, 50), (2, 10)] {
        s.enqueue(request(id, 1, total - 1));
    }
    let cost = |w: &Waiting| w.total;
    assert_eq!(ids(&s.admit(cost)), [0]);
    assert_eq!(s.reserved(), 60);
    assert!(s.resize(0, 40), "a fold");
    assert_eq!(ids(&s.admit(cost)), [1, 2]);
    assert!(!s.resize(2, 11), "a fold that would take more than there is");
    assert_eq!(s.reserved(), 100);
    s.remove(1);
    assert_eq!((s.reserved(), s.running()), (50, 2));
}

#[test]
fn removal_from_the_queue() {
    let mut s = scheduler(1, 8, None);
    s.enqueue(request(0, 1, 1));
    s.enqueue(request(1, 1, 1));
    s.enqueue(request(2, 1, 1));
    s.remove(1);
    assert_eq!(ids(&s.admit(|_| 0)), [0]);
    s.remove(0);
    assert_eq!(ids(&s.admit(|_| 0)), [2]);
    s.remove(2);
    assert!(s.is_idle() && s.plan().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any load of requests that fit at all: everyone finishes, in bounded time; budgets hold at every step; admission
    /// and prefill happen in order of arrival; a prompt is cut as if it were alone.
    #[test]
    fn fair_bounded_and_ordered(
        requests in prop::collection::vec((1usize..60, 1usize..12, 0usize..30, any::<bool>()), 1..30),
        max_running in 1usize..6,
        chunk in 1usize..24,
        spare in 0usize..40,
    ) {
        let budget = requests.iter().map(|r| r.0 + r.1).max().unwrap_or(1) + spare;
        let mut s = scheduler(max_running, chunk, Some(budget));
        let mut pending: VecDeque<(usize, Waiting, bool)> = VecDeque::new();
        let mut at = 0;
        for (id, &(prompt, new, gap, dropped)) in requests.iter().enumerate() {
            at += gap;
            pending.push_back((at, request(id as u64, prompt, new), dropped));
        }
        let bound = at + requests.iter().map(|r| r.0.div_ceil(chunk) + r.1 + 1).sum::<usize>();
        let mut work: BTreeMap<u64, (Waiting, usize, bool)> = BTreeMap::new();
        let (mut last_admitted, mut last_prefilled) = (None, None);
        let mut done = 0;
        for step in 0..=bound {
            while pending.front().is_some_and(|p| p.0 <= step) {
                let (_, w, dropped) = pending.pop_front().expect("just seen");
                s.enqueue(w);
                work.insert(w.id, (w, 0, dropped));
            }
            for w in s.admit(|w| w.total) {
                prop_assert!(last_admitted < Some(w.id), "admission in order");
                last_admitted = Some(w.id);
            }
            prop_assert!(s.running() <= max_running && s.reserved() <= budget);
            let plan = s.plan();
            prop_assert_eq!(plan.is_empty(), s.running() == 0, "a running set always moves");
            let mut prefill = 0;
            for &p in &plan {
                let (w, fed, dropped) = work.get_mut(&p.id).expect("a known id");
                if *fed < w.prompt {
                    prop_assert_eq!(*fed % chunk, 0, "pieces start at multiples of the chunk");
                    prop_assert_eq!(p.tokens, chunk.min(w.prompt - *fed), "pieces as if alone");
                    prefill += p.tokens;
                    if *fed == 0 {
                        prop_assert!(last_prefilled < Some(p.id), "prefill in order");
                        last_prefilled = Some(p.id);
                    }
                } else {
                    prop_assert_eq!(p.tokens, 1);
                }
                *fed += p.tokens;
                s.fed(p);
                // Some are dropped half way, the others run to their last token.
                if *fed >= w.total || (*dropped && *fed > w.total / 2) {
                    s.remove(p.id);
                    done += 1;
                }
            }
            prop_assert!(prefill <= chunk);
            if done == requests.len() {
                return Ok(());
            }
        }
        prop_assert!(false, "{} of {} requests done after {} steps", done, requests.len(), bound);
    }
}
