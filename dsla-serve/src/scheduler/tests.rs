use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn request(id: u64, prompt: usize, max_tokens: usize) -> Waiting {
    Waiting { id, prompt, known: prompt, total: prompt + max_tokens, pinned: None, again: None }
}

fn scheduler(max_running: usize, prefill_chunk: usize, budget: Option<usize>) -> Scheduler {
    // A byte per token, none when the one layer is converted.
    Scheduler::new(Limits { max_running, prefill_chunk, budget }, Footprint::new(1, 1, vec![0, 3]))
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
    assert_eq!(ids(&s.admit(|_| Some(0))), [0, 1]);
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
    assert_eq!(ids(&s.admit(|_| Some(0))), [0, 1], "8 tokens: the others stay in the queue");
    assert_eq!(s.prompt_tokens(), 15);
    assert_eq!(plan(&s), [(0, 3), (1, 5)]);
    s.hold_back(1, true);
    assert_eq!(ids(&s.admit(|_| Some(0))), [2], "the step has room again");
    assert_eq!(plan(&s), [(0, 3)], "but not for 6");
    s.hold_back(2, true);
    s.hold_back(0, true);
    assert_eq!(ids(&s.admit(|_| Some(0))), [3]);
    assert_eq!(plan(&s), [(0, 3), (3, 1)], "the oldest is not held back");
    s.cut(0, 2);
    s.hold_back(1, false);
    assert_eq!(plan(&s), [(0, 2), (1, 5), (3, 1)]);
}

#[test]
fn pieces_end_at_cuts() {
    let mut s = scheduler(4, 8, None);
    s.enqueue(request(0, 30, 9));
    s.admit(|_| Some(0));
    s.begin(0, 2, vec![0, 24, 6, 28]);
    let pieces: Vec<usize> = (0..7).map(|_| run(&mut s)[0].1).collect();
    assert_eq!(pieces, [4, 2, 8, 8, 4, 2, 1], "to 6, 8, 16, 24, 28, 30, and on by tokens");
}

#[test]
fn the_head_waits_for_bytes_and_nobody_overtakes_it() {
    let mut s = scheduler(4, 128, Some(200));
    for (id, prompt, new) in [(0, 60, 140), (1, 50, 150), (2, 5, 5)] {
        s.enqueue(request(id, prompt, new));
    }
    assert_eq!(ids(&s.admit(|_| Some(0))), [0], "60 and 64 to grow by, 50 and 64 more are too many");
    assert_eq!((s.reserved(), s.left()), (60, 139), "its prompt, and the next token");
    assert!(s.convert(0, 1), "a fold");
    assert_eq!(s.reserved(), 3);
    assert_eq!(ids(&s.admit(|_| Some(0))), [1, 2]);
    s.remove(1);
    assert_eq!((s.reserved(), s.running()), (8, 2));
}

#[test]
fn a_fold_has_to_fit_now_and_at_the_end() {
    let footprint = Footprint::new(2, 1, vec![0, 90, 180]);
    let limits = Limits { max_running: 4, prefill_chunk: 64, budget: Some(150) };
    let mut s = Scheduler::new(limits, footprint);
    s.enqueue(request(0, 10, 20));
    s.enqueue(request(1, 10, 10));
    assert_eq!(ids(&s.admit(|_| Some(0))), [0, 1]);
    assert!(!s.convert(0, 2), "180 bytes fit never");
    assert!(s.convert(0, 1), "90 and 11, beside 22");
    assert!(!s.convert(1, 1), "101 do not fit beside 101");
    s.remove(0);
    assert!(s.convert(1, 1));
    assert!(!s.convert(7, 1), "nobody");
}

#[test]
fn the_youngest_goes_back_to_the_head() {
    let mut s = scheduler(4, 64, Some(230));
    for id in 0..4 {
        s.enqueue(request(id, 10, 100));
    }
    assert_eq!(ids(&s.admit(|_| Some(0))), [0, 1, 2], "74 bytes each");
    for _ in 0..67 {
        assert_eq!(s.preempt(), None);
        run(&mut s);
    }
    assert_eq!((s.reserved(), s.preempt()), (3 * 76, Some(2)));
    assert_eq!(s.preempt(), None, "the others fit again");
    let head = *s.waiting().next().expect("two wait");
    let known = 10 + 67;
    assert_eq!((head.id, head.known, head.again), (2, known, Some(0)), "66 tokens fed, 67 generated");
    assert!(s.admit(|_| Some(0)).is_empty(), "141 bytes do not fit, and nobody overtakes");
    s.remove(0);
    assert_eq!(ids(&s.admit(|w| w.again.or(Some(0)))), [2]);
    assert_eq!(s.reserved(), 76 + known, "what it knows is counted while it takes it in again");
    s.remove(1);
    s.remove(2);
    s.admit(|_| Some(0));
    assert_eq!((s.running(), s.preempt()), (1, None));
}

#[test]
fn requests_that_end_early_leave_no_memory_unused() {
    // As chats come: 500 tokens, the rest of a context of 2,048 as the most they may generate, 200 that they do.
    let mut s = scheduler(64, 512, Some(8192));
    (0..40).for_each(|id| s.enqueue(request(id, 500, 1548)));
    let (mut fed, mut steps, mut most, mut preempted) = (BTreeMap::new(), 0, 0, 0);
    while !s.is_idle() {
        for w in s.admit(|_| Some(0)) {
            fed.insert(w.id, 0);
        }
        while s.preempt().is_some() {
            preempted += 1;
        }
        most = most.max(s.running());
        for p in s.plan() {
            s.fed(p);
            let fed = fed.get_mut(&p.id).expect("admitted");
            *fed += p.tokens;
            if *fed >= 700 {
                s.remove(p.id);
            }
        }
        steps += 1;
    }
    // Reserving what they could need at their last token would let 4 run, for 2,000 steps.
    assert!(
        most >= 12 && steps < 900 && preempted < 10,
        "{most} at once, {steps} steps, {preempted} preempted"
    );
}

#[test]
fn removal_from_the_queue() {
    let mut s = scheduler(1, 8, None);
    s.enqueue(request(0, 1, 1));
    s.enqueue(request(1, 1, 1));
    s.enqueue(request(2, 1, 1));
    s.remove(1);
    assert_eq!(ids(&s.admit(|_| Some(0))), [0]);
    s.remove(0);
    assert_eq!(ids(&s.admit(|_| Some(0))), [2]);
    s.remove(2);
    assert!(s.is_idle() && s.plan().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any load of requests that fit at all: everyone finishes, in bounded time; budgets hold at every step; the oldest
    /// is never preempted, and order is kept whoever is; a prompt is cut as if it were alone.
    #[test]
    fn fair_bounded_and_ordered(
        requests in prop::collection::vec((1usize..60, 1usize..200, 0usize..30, any::<bool>()), 1..30),
        max_running in 1usize..6,
        chunk in 1usize..24,
        spare in 0usize..200,
    ) {
        let budget = requests.iter().map(|r| r.0 + r.1).max().unwrap_or(1) + spare;
        let mut s = scheduler(max_running, chunk, Some(budget));
        let mut pending: VecDeque<(usize, Waiting, bool)> = VecDeque::new();
        let mut at = 0;
        for (id, &(prompt, new, gap, dropped)) in requests.iter().enumerate() {
            at += gap;
            pending.push_back((at, request(id as u64, prompt, new), dropped));
        }
        // The oldest moves in every step, and what it has done is never undone.
        let bound = at + requests.iter().map(|r| r.0.div_ceil(chunk) + 1 + r.1 + 1).sum::<usize>();
        // Fed now, and tokens generated so far.
        let mut work: BTreeMap<u64, (Waiting, usize, usize, bool)> = BTreeMap::new();
        let mut running = std::collections::BTreeSet::new();
        let mut done = 0;
        for step in 0..=bound {
            while pending.front().is_some_and(|p| p.0 <= step) {
                let (_, w, dropped) = pending.pop_front().expect("just seen");
                s.enqueue(w);
                work.insert(w.id, (w, 0, 0, dropped));
            }
            for w in s.admit(|_| Some(0)) {
                prop_assert!(running.last() < Some(&w.id), "admission in order");
                let (_, fed, generated, _) = work[&w.id];
                prop_assert_eq!((fed, w.known), (0, w.prompt + generated));
                running.insert(w.id);
                // A cut that belongs to the sequence.
                s.begin(w.id, 0, vec![w.prompt / 2]);
            }
            while let Some(id) = s.preempt() {
                prop_assert_eq!(running.pop_last(), Some(id), "the youngest");
                prop_assert!(!running.is_empty(), "never the oldest");
                work.get_mut(&id).expect("a known id").1 = 0;
            }
            prop_assert!(s.running() <= max_running && s.reserved() <= budget);
            prop_assert!(s.left() + s.reserved() <= budget);
            let plan = s.plan();
            prop_assert_eq!(plan.is_empty(), s.running() == 0, "a running set always moves");
            prop_assert!(plan.first().map(|p| p.id) == running.first().copied(), "the oldest moves");
            let mut prefill = 0;
            for &p in &plan {
                let (w, fed, generated, dropped) = work.get_mut(&p.id).expect("a known id");
                if *fed < w.prompt {
                    let half = w.prompt / 2;
                    let ends = ((*fed / chunk + 1) * chunk).min(w.prompt);
                    let ends = if *fed < half { ends.min(half) } else { ends };
                    prop_assert_eq!(p.tokens, ends - *fed, "pieces as if alone");
                    prefill += p.tokens;
                } else {
                    prop_assert_eq!(p.tokens, 1);
                }
                *fed += p.tokens;
                s.fed(p);
                if *fed >= w.prompt + *generated {
                    *generated += 1;
                }
                // Some are dropped half way, the others run to their last token, which nobody feeds.
                if w.prompt + *generated >= w.total || (*dropped && *fed > w.total / 2) {
                    s.remove(p.id);
                    running.remove(&p.id);
                    done += 1;
                }
            }
            prop_assert!(prefill <= chunk);
            let held: usize = running.iter().map(|id| work[id].1).sum();
            prop_assert!(held <= budget);
            if done == requests.len() {
                return Ok(());
            }
        }
        prop_assert!(false, "{} of {} requests done after {} steps", done, requests.len(), bound);
    }
}
