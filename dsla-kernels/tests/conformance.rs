//! Every op against its f64 specification, on every instruction set this machine has, by the 2x rule:
//! err(kernel) <= 2 * err(specification in the same dtype) + atol, both against f64.

mod common;
use common::*;

#[test]
fn every_op_at_every_level() {
    let _lock = serial();
    let mut run = 0;
    for level in levels() {
        for (op, cases) in dsla_kernels::ops::all() {
            assert!(!cases.is_empty(), "{op} has no cases");
            for case in cases.iter().filter(|c| !c.bench) {
                check(op, case, level);
                run += 1;
            }
        }
    }
    println!("{run} case runs over {:?}", levels());
    assert!(run > 0);
}

/// The attention of machines that multiply bf16, with those products emulated: elsewhere nothing would run it.
#[test]
fn attention_over_pairs_of_bf16() {
    let _lock = serial();
    dsla_kernels::simd::force_pairs(true);
    let mut run = 0;
    for level in levels() {
        for (op, cases) in dsla_kernels::ops::all() {
            for case in cases.iter().filter(|c| !c.bench && c.id.contains("bf16") && rounds(op, &c.id)) {
                check(op, case, level);
                run += 1;
            }
        }
    }
    dsla_kernels::simd::force_pairs(false);
    assert!(run > 0);
}

/// What is multiplied in bf16 at every level against f32.
fn pairs_agree(growth: f32, run: impl Fn() -> Vec<f32>) {
    use dsla_kernels::simd;
    for level in levels() {
        simd::force(level.min(simd::Level::Avx512));
        let want = run();
        simd::force(level);
        simd::force_pairs(true);
        let got = run();
        simd::force_pairs(false);
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 0.03, "keys times {growth}, {level:?}: off by {worst}");
    }
    simd::force(*simd::LEVELS.last().unwrap());
}

/// Prefill in bf16 measures scores against those of the first block: where later ones are larger than f32 has room for, or
/// than anything, the result is that of a pass that looks at every block.
#[test]
fn scores_may_grow_after_the_first_block() {
    use dsla_kernels::case::Rng;
    use dsla_kernels::ops::softmax_attention::forward;
    use dsla_kernels::{DType, Tensor};
    let _lock = serial();
    let (t, s, h, g, d) = (70, 400, 6, 2, 64);
    let mut rng = Rng::new(3);
    let q =
        rng.tensor(&[t, h, d], 1.0, DType::F32).to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
    let v = rng.tensor(&[s, g, d], 1.0, DType::BF16);
    let small = rng.tensor(&[s, g, d], 1.0, DType::F32).to_vec_f32();
    for growth in [1.0, 6.0, 40.0, 1e4] {
        let k =
            small.iter().enumerate().map(|(i, x)| if i / (g * d) < 200 { *x } else { growth * x }).collect();
        let k = Tensor::from_f32([s, g, d], k).to_dtype(DType::BF16).unwrap();
        let run = || {
            let mut out = Tensor::empty([t, h, d], DType::F32);
            forward(q.view(), k.view(), v.view(), out.view_mut()).unwrap();
            out.to_vec_f32()
        };
        pairs_agree(growth, run);
    }
}

/// The same of the windows of converted layers, whose queries read states besides.
#[test]
fn scores_of_windows_may_grow_after_the_first_block() {
    use dsla_kernels::case::Rng;
    use dsla_kernels::ops::dsla::{Args, Normalizer, State, forward};
    use dsla_kernels::{DType, Tensor};
    let _lock = serial();
    let (t, r, h, g, d, f, sinks) = (150, 64, 6, 2, 64, 64, 3);
    let mut rng = Rng::new(4);
    let rounded = |x: Tensor| x.to_dtype(DType::BF16).unwrap();
    let positive = |x: Tensor| Tensor::from_f32(x.shape(), x.f32().iter().map(|v| v.abs() / 64.0).collect());
    let q = rounded(rng.tensor(&[t, h, d], 1.0, DType::F32)).to_dtype(DType::F32).unwrap();
    let v = rng.tensor(&[r + t, g, d], 1.0, DType::BF16);
    let small = rng.tensor(&[r + t, g, d], 1.0, DType::F32);
    let [sink_k, sink_v] = [(); 2].map(|()| rng.tensor(&[sinks, g, d], 1.0, DType::BF16));
    let [phi_q, phi_k] = [h, g].map(|n| positive(rng.tensor(&[t, n, f], 1.0, DType::F32)));
    let fade = positive(rng.tensor(&[t, 2, g, 1], 1.0, DType::F32));
    let log_decay = Tensor::from_f32(fade.shape(), fade.f32().iter().map(|x| -x).collect());
    let gamma = Tensor::from_f32([2, h], vec![0.5; 2 * h]);
    let (mix, slope) = (rng.tensor(&[h], 0.5, DType::F32), rng.tensor(&[h], 0.5, DType::F32));
    let s0 = rng.tensor(&[2, g, f, d], 0.3, DType::F32);
    let z0 = positive(rng.tensor(&[2, g, f], 64.0, DType::F32));
    for growth in [1.0, 6.0, 40.0, 1e4] {
        let grown = |(i, x): (usize, &f32)| if i / (g * d) % 64 < 40 { *x } else { growth * x };
        let k = rounded(Tensor::from_f32([r + t, g, d], small.f32().iter().enumerate().map(grown).collect()));
        let run = || {
            let (mut s, mut z) = (s0.clone(), z0.clone());
            let mut out = Tensor::empty([t, h, d], DType::F32);
            let args = Args {
                q: q.view(),
                k: k.view(),
                v: v.view(),
                sink_k: sink_k.view(),
                sink_v: sink_v.view(),
                position: 500,
                phi_q: phi_q.view(),
                phi_k: phi_k.view(),
                log_decay: log_decay.view(),
                gamma: gamma.view(),
                mix: mix.view(),
                slope: slope.view(),
                window: r,
                normalizer: Normalizer::Sum,
            };
            forward(&args, State { s: s.view_mut(), z: z.view_mut() }, None, out.view_mut()).unwrap();
            out.to_vec_f32()
        };
        pairs_agree(growth, run);
    }
}

#[test]
fn exp_is_accurate_and_total() {
    for i in -1_740_000..1_760_000 {
        let x = i as f32 * 5e-5;
        let (got, want) = (dsla_kernels::simd::exp::<true>(x) as f64, (x as f64).exp());
        assert!((got - want).abs() <= 3.0 * f32::EPSILON as f64 * want, "exp({x}): got {got}, want {want}");
    }
    for i in -1_740_000..=0 {
        let x = i as f32 * 5e-5;
        let (got, want) = (dsla_kernels::simd::exp_fall::<true>(x) as f64, (x as f64).exp());
        assert!(
            (got - want).abs() <= 3.0 * f32::EPSILON as f64 * want,
            "exp_fall({x}): got {got}, want {want}"
        );
    }
    assert_eq!(dsla_kernels::simd::exp_fall::<false>(-88.0), 0.0);
    assert_eq!(dsla_kernels::simd::exp_fall::<false>(f32::NEG_INFINITY), 0.0);
    assert!(dsla_kernels::simd::exp_fall::<false>(f32::NAN).is_nan());
    assert_eq!(dsla_kernels::simd::exp::<false>(-200.0), 0.0);
    assert_eq!(dsla_kernels::simd::exp::<false>(f32::NEG_INFINITY), 0.0);
    assert_eq!(dsla_kernels::simd::exp::<false>(100.0), f32::INFINITY);
    assert!(dsla_kernels::simd::exp::<false>(f32::NAN).is_nan());
}
