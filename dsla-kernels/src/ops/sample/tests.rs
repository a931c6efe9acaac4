use super::*;
use crate::case::Rng;
use crate::{DType, Tensor};

fn logits(x: &[f32]) -> View<'_> {
    View::from_f32([x.len()], x)
}

#[test]
fn unfit_logits_are_refused_and_never_panic() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for x in [&[][..], &[nan], &[0.0, nan, 1.0], &[nan; 100], &[inf, 0.0], &[-inf, -inf]] {
        for temperature in [0.0, 1.0] {
            for top_k in [0, 1] {
                let params = Params { temperature, top_k, ..Params::default() };
                let e = forward(logits(x), &params, 0).unwrap_err();
                assert!(matches!(e, Error::Argument { arg: "logits", .. }), "{x:?}: {e}");
            }
        }
    }
    assert!(top_logprobs(logits(&[0.0, nan]), 0, 1).is_err());
    assert!(top_logprobs(logits(&[0.0, 1.0]), 2, 1).is_err());
}

#[test]
fn params_out_of_range_are_refused() {
    let ok = Params::default();
    for (params, want) in [
        (Params { temperature: -1.0, ..ok }, "sample: temperature: got -1, want finite, 0 or more"),
        (Params { temperature: f32::NAN, ..ok }, "sample: temperature: got NaN, want finite, 0 or more"),
        (Params { top_p: 0.0, ..ok }, "sample: top_p: got 0, want in (0, 1]"),
        (Params { min_p: 1.5, ..ok }, "sample: min_p: got 1.5, want in [0, 1]"),
    ] {
        assert_eq!(forward(logits(&[0.0]), &params, 0).unwrap_err().to_string(), want);
    }
}

#[test]
fn masked_tokens_are_never_chosen() {
    let x = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
    for params in [Params::default(), Params { top_k: 4, ..Params::default() }] {
        let ids: Vec<u32> = (0..64).map(|i| forward(logits(&x), &params, i).unwrap()).collect();
        assert!(ids.contains(&1) && ids.contains(&3) && ids.iter().all(|i| [1, 3].contains(i)));
    }
}

#[test]
fn frequencies_follow_the_softmax() {
    let p = [0.5f32, 0.25, 0.125, 0.125];
    let x: Vec<f32> = p.iter().map(|p| p.ln()).collect();
    let n = 40_000;
    let count = |params: &Params| {
        let mut counts = [0usize; 4];
        (0..n).for_each(|i| counts[forward(logits(&x), params, i).unwrap() as usize] += 1);
        counts.map(|c| c as f32 / n as f32)
    };
    let near = |got: [f32; 4], want: [f32; 4]| {
        // Four deviations of a share of 1/2 over n draws are 0.01.
        let ok = got.iter().zip(want).all(|(g, w)| (g - w).abs() < 0.01);
        assert!(ok, "got {got:?}, want {want:?}");
    };
    let plain = Params { seed: 11, ..Params::default() };
    near(count(&plain), p);
    near(count(&Params { temperature: 0.5, ..plain }), [16. / 22., 4. / 22., 1. / 22., 1. / 22.]);
    near(count(&Params { top_k: 3, ..plain }), [4. / 7., 2. / 7., 1. / 7., 0.0]);
    near(count(&Params { top_p: 0.6, ..plain }), [2. / 3., 1. / 3., 0.0, 0.0]);
    near(count(&Params { min_p: 0.4, ..plain }), [2. / 3., 1. / 3., 0.0, 0.0]);
    // Top-p counts within what top-k left: 2/3 of it is enough for 0.6, though 0.5 of the whole was not.
    near(count(&Params { top_k: 2, top_p: 0.6, ..plain }), [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn draws_are_uniform_and_seeds_do_not_overlap() {
    let mean = (0..10_000).map(|i| uniform(3, i)).sum::<f64>() / 1e4;
    assert!((mean - 0.5).abs() < 0.012, "mean {mean}");
    assert!((0..10_000).all(|i| (0.0..1.0).contains(&uniform(i, u64::MAX - i))));
    let mut all: Vec<u64> = (0..100).flat_map(|s| (0..100).map(move |i| uniform(s, i).to_bits())).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 10_000);
}

#[test]
fn logprobs_are_sorted_and_sum_to_one() {
    let x = Rng::new(1).tensor(&[1000], 2.0, DType::F32);
    let (chosen, all) = top_logprobs(x.view(), 17, 2000).unwrap();
    assert_eq!(all.len(), 1000);
    assert!(all.windows(2).all(|w| w[0].1 >= w[1].1));
    let sum: f64 = all.iter().map(|a| (a.1 as f64).exp()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "sum {sum}");
    assert_eq!(all.iter().find(|a| a.0 == 17).unwrap().1, chosen);
    assert_eq!(top_logprobs(x.view(), 17, 5).unwrap(), (chosen, all[..5].to_vec()));
    assert_eq!(top_logprobs(x.view(), 17, 0).unwrap(), (chosen, vec![]));
    let ties = Tensor::zeros([4], DType::F32);
    let (_, best) = top_logprobs(ties.view(), 0, 2).unwrap();
    assert_eq!(best.iter().map(|b| b.0).collect::<Vec<_>>(), [0, 1]);
}
