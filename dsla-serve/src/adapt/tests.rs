use super::*;
use proptest::prelude::*;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn load(at: u64, queued: usize, longest: usize) -> Load {
    Load { now: secs(at), queued_requests: queued, longest_queued_prompt: longest, ..Load::default() }
}

fn threshold(t: Threshold, ladder: &Ladder) -> Controller {
    Controller::new(Policy::Threshold(t), ladder).expect("a valid policy")
}

#[test]
fn the_papers_constants() {
    let ladder = Ladder::new(32, 32, &[], None);
    let mut c = threshold(Threshold::default(), &ladder);
    assert_eq!(c.max(), 24);
    assert_eq!(c.observe(&load(0, 49, 1023)), 0);
    assert_eq!(c.observe(&load(4, 50, 0)), 0, "not before the period is over");
    assert_eq!(c.observe(&load(5, 50, 0)), 1, "50 requests");
    assert_eq!(c.observe(&load(10, 99, 0)), 1, "rests");
    assert_eq!(c.observe(&load(60, 99, 0)), 1, "rests");
    assert_eq!(c.observe(&load(65, 0, 1024)), 2, "a prompt of 1024");
    assert_eq!(c.observe(&load(200, 25, 0)), 2, "25 is not below half of 50");
    assert_eq!(c.observe(&load(205, 0, 820)), 2, "820 is not below 0.8 of 1024");
    assert_eq!(c.observe(&load(210, 24, 819)), 1);
    assert_eq!(c.observe(&load(275, 0, 0)), 0);
    assert_eq!(c.observe(&load(400, 0, 0)), 0);
}

#[test]
fn a_long_prompt_between_looks_is_not_overlooked() {
    let ladder = Ladder::new(8, 8, &[], None);
    let mut c = threshold(Threshold { cooldown: secs(0), ..Threshold::default() }, &ladder);
    assert_eq!(c.observe(&load(0, 0, 0)), 0);
    assert_eq!(c.observe(&load(2, 1, 5000)), 0);
    assert_eq!(c.observe(&load(5, 0, 0)), 1);
    assert_eq!(c.observe(&load(10, 0, 0)), 0, "and is forgotten");
}

#[test]
fn idle_looks_come_in_time() {
    let ladder = Ladder::new(8, 8, &[], None);
    let mut c = threshold(Threshold::default(), &ladder);
    assert_eq!(c.idle_wait(secs(3)), None);
    c.observe(&load(0, 50, 0));
    assert_eq!(c.idle_wait(secs(20)), Some(secs(40)));
    assert_eq!(c.idle_wait(secs(90)), Some(secs(0)));
    assert_eq!(Controller::new(Policy::Fixed(0.5), &ladder).expect("valid").idle_wait(secs(0)), None);
}

#[test]
fn guard() {
    let quality = [(2, 0.01), (4, 0.05), (6, 0.04), (8, 0.2)];
    let max = |limit| Ladder::new(10, 8, &quality, limit).max();
    assert_eq!(max(None), 8);
    assert_eq!(max(Some(0.5)), 8);
    assert_eq!(max(Some(0.05)), 6);
    assert_eq!(max(Some(0.045)), 2, "6 is fine again, but 4 on the way is not");
    assert_eq!(max(Some(0.0)), 0);
    assert_eq!(Ladder::new(10, 8, &[(2, f64::NAN)], Some(1.0)).max(), 0);
    assert_eq!(Ladder::new(10, 8, &[], Some(1.0)).max(), 0, "nothing measured, nothing promised");
    assert_eq!(Ladder::new(10, 3, &quality, Some(1.0)).max(), 3);
}

#[test]
fn fixed_rates() {
    let ladder = Ladder::new(10, 8, &[(8, 0.1)], None);
    let target = |rate| Controller::new(Policy::Fixed(rate), &ladder).map(|c| c.target());
    assert_eq!(target(0.0).ok(), Some(0));
    assert_eq!(target(0.75).ok(), Some(8), "7.5 rounds up");
    for (rate, want) in [
        (0.9, "policy: fixed rate: got 0.9 = 9 layers, want at most 8 layers (of 10 in the adapter's order)"),
        (1.5, "policy: fixed rate: got 1.5, want a share of the layers in [0, 1]"),
        (f64::NAN, "policy: fixed rate: got NaN, want a share of the layers in [0, 1]"),
    ] {
        let error = target(rate).expect_err("refused").to_string();
        assert!(error.ends_with(want), "{error}");
    }
    let guarded = Ladder::new(10, 8, &[(8, 0.1)], Some(0.01)).pin(0.5).expect_err("refused");
    assert_eq!(guarded.1, "at most 0 layers (of 10 by max_quality_loss)");
    assert_eq!(
        Ladder::new(10, 0, &[], None).pin(0.5).expect_err("refused").1,
        "at most 0 layers (without an adapter)"
    );
}

#[test]
fn nonsense_is_refused() {
    let ladder = Ladder::new(4, 4, &[], None);
    for t in [
        Threshold { max_rate: 1.1, ..Threshold::default() },
        Threshold { relax_queue: -0.1, ..Threshold::default() },
        Threshold { relax_prompt: f64::NAN, ..Threshold::default() },
        Threshold { step: 0, ..Threshold::default() },
    ] {
        assert!(Controller::new(Policy::Threshold(t), &ladder).is_err());
    }
}

#[test]
fn custom_is_bounded() {
    let ladder = Ladder::new(8, 8, &[(1, 0.1), (3, 0.2), (8, 0.9)], Some(0.5));
    let mut c = Controller::new(Policy::custom(|load, now| now + load.running), &ladder).expect("valid");
    assert_eq!(c.observe(&Load { running: 2, ..Load::default() }), 2);
    assert_eq!(c.observe(&Load { running: 9, ..Load::default() }), 3);
}

fn thresholds() -> impl Strategy<Value = Threshold> {
    let times = (0u64..10_000, 0u64..70_000);
    let shares = (0.0..=1.0f64, 0.0..=1.0f64, 0.0..=1.0f64);
    (0usize..100, 0usize..3000, times, shares, 1usize..4).prop_map(
        |(
            queued_requests,
            prompt_tokens,
            (period, cooldown),
            (max_rate, relax_queue, relax_prompt),
            step,
        )| {
            Threshold {
                queued_requests,
                prompt_tokens,
                period: Duration::from_millis(period),
                cooldown: Duration::from_millis(cooldown),
                max_rate,
                relax_queue,
                relax_prompt,
                step,
            }
        },
    )
}

fn ladders() -> impl Strategy<Value = (Ladder, Vec<(usize, f64)>, Option<f64>)> {
    let quality = prop::collection::vec((0usize..40, 0.0..1.0f64), 0..8);
    (1usize..33, 0usize..40, quality, prop::option::of(0.0..1.0f64)).prop_map(
        |(layers, order, quality, limit)| (Ladder::new(layers, order, &quality, limit), quality, limit),
    )
}

type Moment = (u64, usize, usize);

fn moments() -> impl Strategy<Value = Vec<Moment>> {
    prop::collection::vec((0u64..20_000, 0usize..150, 0usize..4000), 1..120)
}

proptest! {
    /// Whatever the load does: the target stays within the ladder and the policy's share, moves by one step at most
    /// per period, rests after a move, and no refused prefix is ever entered.
    #[test]
    fn bounded_slow_and_guarded(t in thresholds(), (ladder, quality, limit) in ladders(), moments in moments()) {
        let mut c = threshold(t.clone(), &ladder);
        let (mut now, mut target, mut moved) = (Duration::ZERO, 0, None::<Duration>);
        for (wait, queued, longest) in moments {
            now += Duration::from_millis(wait);
            let load = Load { now, queued_requests: queued, longest_queued_prompt: longest, ..Load::default() };
            let next = c.observe(&load);
            prop_assert!(next <= ladder.max() && next <= c.max());
            prop_assert!(next as f64 <= t.max_rate * ladder.layers() as f64 + 1e-6);
            if let Some(limit) = limit {
                prop_assert!(quality.iter().all(|&(k, loss)| k > next || loss <= limit || next == 0));
            }
            prop_assert!(next.abs_diff(target) <= t.step);
            if next != target {
                let rest = t.period.max(t.cooldown);
                prop_assert!(moved.is_none_or(|at| now - at >= rest));
                (target, moved) = (next, Some(now));
            }
        }
    }

    /// A load that stays as it is moves the target one way only, and then leaves it there.
    #[test]
    fn does_not_flap(t in thresholds(), (ladder, ..) in ladders(), moments in moments(), queued in 0usize..150, longest in 0usize..4000) {
        let mut c = threshold(t, &ladder);
        let mut now = Duration::ZERO;
        for (wait, queued, longest) in moments {
            now += Duration::from_millis(wait);
            c.observe(&Load { now, queued_requests: queued, longest_queued_prompt: longest, ..Load::default() });
        }
        let mut seen = Vec::new();
        for _ in 0..50 {
            now += secs(100);
            seen.push(c.observe(&Load { now, queued_requests: queued, longest_queued_prompt: longest, ..Load::default() }));
        }
        let up = seen.windows(2).all(|w| w[0] <= w[1]);
        let down = seen.windows(2).all(|w| w[0] >= w[1]);
        prop_assert!(up || down, "{:?}", seen);
        prop_assert_eq!(seen[48], seen[49]);
    }

    /// Without an adapter nothing is ever converted.
    #[test]
    fn no_adapter_no_conversion(t in thresholds(), layers in 1usize..40, moments in moments(), wish in 0usize..99) {
        let ladder = Ladder::new(layers, 0, &[], None);
        let mut c = threshold(t, &ladder);
        let mut custom = Controller::new(Policy::custom(move |_, _| wish), &ladder).expect("valid");
        let mut now = Duration::ZERO;
        for (wait, queued, longest) in moments {
            now += Duration::from_millis(wait);
            let load = Load { now, queued_requests: queued, longest_queued_prompt: longest, ..Load::default() };
            prop_assert_eq!((c.observe(&load), custom.observe(&load)), (0, 0));
        }
    }
}

#[test]
fn memory_pressure_is_bytes_held_or_a_queue_behind_reservations() {
    let ladder = Ladder::new(10, 10, &[], None);
    let policy = MemoryPressure { max_rate: 0.25, step: 2, ..MemoryPressure::new(1000) };
    let mut c = Controller::new(Policy::Memory(policy), &ladder).expect("valid");
    let at = |s, kv_bytes, queued_requests, reserved_bytes| Load {
        now: secs(s),
        kv_bytes,
        state_bytes: 100,
        queued_requests,
        reserved_bytes,
        ..Load::default()
    };
    assert_eq!(c.max(), 2, "a quarter of ten layers, rounded down");
    assert_eq!(c.observe(&at(0, 900, 0, 5000)), 0, "1000 is not more than 1000");
    assert_eq!(c.observe(&at(1, 901, 0, 5000)), 2);
    assert_eq!(c.observe(&at(2, 400, 0, 5000)), 2, "half is not below half");
    assert_eq!(c.observe(&at(3, 0, 1, 900)), 2, "somebody waits");
    assert_eq!(c.idle_wait(secs(3)), Some(Duration::from_millis(500)));
    assert_eq!(c.observe(&at(4, 399, 0, 5000)), 0);
    assert_eq!(c.observe(&at(5, 0, 1, 1001)), 2, "a queue behind reservations");
    assert!(Controller::new(Policy::Memory(MemoryPressure::new(0)), &ladder).is_err());
}

#[test]
fn goals_missed_by_any_measure_raise_and_all_met_with_ease_lower() {
    let ladder = Ladder::new(10, 10, &[], None);
    let ms = Duration::from_millis;
    let slo = Slo { cooldown: ms(0), period: ms(0), step: 1, ..Slo::new(ms(400), ms(100)) };
    let mut c = Controller::new(Policy::Slo(slo), &ladder).expect("valid");
    let mut look = |wait, first, inter: Option<u64>| {
        c.observe(&Load {
            longest_wait: ms(wait),
            first_token_p90: Option::map(first, ms),
            inter_token_p90: inter.map(ms),
            running: 1,
            ..Load::default()
        })
    };
    assert_eq!(look(0, None, None), 0);
    assert_eq!(look(401, None, None), 1, "a request that waits");
    assert_eq!(look(0, Some(401), None), 2, "first tokens");
    assert_eq!(look(0, Some(10), Some(101)), 3, "later tokens");
    assert_eq!(look(0, Some(400), Some(100)), 3, "met, without ease");
    assert_eq!(look(0, Some(199), Some(50)), 3, "half is not below half");
    assert_eq!(look(0, Some(199), Some(49)), 2);
    assert_eq!(look(0, None, None), 1, "nothing is slow");
    assert!(Controller::new(Policy::slo(ms(0), ms(1)), &ladder).is_err());
}

#[test]
fn a_goal_missed_now_does_not_rest_and_one_missed_lately_does() {
    let ladder = Ladder::new(30, 30, &[], None);
    let ms = Duration::from_millis;
    let mut c = Controller::new(Policy::slo(ms(400), ms(100)), &ladder).expect("valid");
    let mut look = |second: u64, wait, inter: Option<u64>| {
        c.observe(&Load {
            now: Duration::from_secs(second),
            longest_wait: ms(wait),
            inter_token_p90: inter.map(ms),
            running: 1,
            ..Load::default()
        })
    };
    let waits = [look(0, 401, None), look(1, 900, None), look(2, 1900, None)];
    assert_eq!(waits, [1, 17, 24], "what a queue needs, at every look");
    let slow =
        [look(3, 0, Some(200)), look(21, 0, Some(200)), look(22, 0, Some(200)), look(23, 0, Some(200))];
    assert_eq!(slow, [24, 24, 28, 28], "what was slow may be over: after a rest");
    assert_eq!([look(41, 0, None), look(42, 0, None), look(43, 0, None)], [28, 24, 24], "back, with a rest");
}

#[test]
fn a_queue_converts_before_its_first_token_is_late() {
    let ladder = Ladder::new(30, 30, &[(24, 0.01), (30, 0.9)], Some(0.05));
    let mut c = Controller::new(Policy::slo(secs(2), secs(1)), &ladder).expect("valid");
    let mut look = |ms: u64, prompt_tokens, prefill_tok_s, running| {
        let now = Duration::from_millis(ms);
        c.observe(&Load { now, prompt_tokens, prefill_tok_s, running, ..Load::default() })
    };
    assert_eq!(look(0, 9000, None, 1), 0, "how long it will take is not known yet");
    assert_eq!(look(10, 600, Some(300.0), 1), 0, "two seconds: the goal");
    assert_eq!(look(20, 2400, Some(300.0), 1), 18, "8 seconds: three quarters of 24 layers, between looks");
    assert_eq!(look(30, 900, Some(300.0), 1), 18, "less would do now: not back so soon");
    assert_eq!(look(1020, 900, Some(300.0), 1), 22, "still late: a step more at the next look");
    assert_eq!(look(2020, 48_000, Some(300.0), 9), 24, "the guard");
    assert_eq!(look(22_020, 0, Some(300.0), 1), 20, "after a rest back by a step");
    assert_eq!(look(43_000, 0, Some(300.0), 0), 0, "and all the way when nothing is left to do");
}

/// A load of an engine that can do one thing: prompts, at 300 tokens per second with no layer converted and at twice
/// that with all.
fn delay_of_the_last(policy: Policy, arrivals: &[(u64, usize)]) -> (f64, usize) {
    let mut c = Controller::new(policy, &Ladder::new(30, 30, &[], None)).expect("valid");
    let (mut left, mut worst, mut rate) = (0.0, 0.0f64, 300.0);
    for ms in (0..600_000).step_by(100) {
        left += arrivals.iter().filter(|a| a.0 == ms).map(|a| a.1 as f64).sum::<f64>();
        let load = Load {
            now: Duration::from_millis(ms),
            prompt_tokens: left as usize,
            prefill_tok_s: Some(rate),
            running: usize::from(left > 0.0),
            ..Load::default()
        };
        rate = 300.0 * (1.0 + c.observe(&load) as f64 / 30.0);
        worst = worst.max(left / rate);
        left = (left - rate * 0.1).max(0.0);
    }
    (worst, c.target())
}

#[test]
fn a_load_between_the_two_capacities_is_kept_up_with() {
    // 6,000 tokens every 13 seconds for three minutes: 460 per second, where the teacher does 300 and the hybrid 600.
    let arrivals: Vec<(u64, usize)> = (0..14).map(|i| (i * 13_000, 6000)).collect();
    let slo = || Policy::slo(secs(2), secs(1));
    let (teacher, _) = delay_of_the_last(Policy::Fixed(0.0), &arrivals);
    let (adaptive, target) = delay_of_the_last(slo(), &arrivals);
    assert!(teacher > 90.0 && adaptive < 14.0, "{teacher} s and {adaptive} s");
    assert_eq!(target, 0, "back when it is over");
}
