//! Keys and values in pages: the bits of the same rows in one piece, wherever pages end.

mod common;
use common::*;
use dsla_kernels::case::Rng;
use dsla_kernels::ops::softmax_attention::{Int8Rows, forward, forward_int8, forward_pages};
use dsla_kernels::{DType, Error, Tensor, View, simd};

/// Rows of x page by page, each its own memory with rows of NaN behind the last.
fn cut(x: &Tensor, page: usize) -> Vec<Tensor> {
    let (s, row) = (x.dims()[0], x.dims()[1..].iter().product::<usize>());
    let piece = |at| {
        let mut t = x.rows(at, s.min(at + page)).to_tensor().unwrap();
        t.extend(Tensor::from_f32([3, row], vec![f32::NAN; 3 * row]).to_dtype(x.dtype()).unwrap().view())
            .unwrap();
        t
    };
    (0..s).step_by(page).map(piece).collect()
}

fn views(pages: &[Tensor]) -> Vec<View<'_>> {
    pages.iter().map(|p| p.rows(0, p.dims()[0] - 3)).collect()
}

fn whole<'a>(x: &[&'a Tensor]) -> Vec<View<'a>> {
    x.iter().map(|x| x.view()).collect()
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.to_vec_f32().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn where_a_page_ends_changes_no_bit() {
    let _lock = serial();
    let mut rng = Rng::new(11);
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for [h, g, d] in [[9, 3, 64], [2, 1, 20]] {
            for s in [1, 63, 64, 65, 127, 200, 530, 1001] {
                let (k, v) = (rng.tensor(&[s, g, d], 1.0, dtype), rng.tensor(&[s, g, d], 1.0, dtype));
                for t in [1, 3, 8, 9, 40, s].into_iter().filter(|t| *t <= s.min(600)) {
                    let q = rng.tensor(&[t, h, d], 1.0, DType::F32);
                    for (level, page) in levels().into_iter().flat_map(|l| [(l, 64), (l, 5), (l, 130)]) {
                        simd::force(level);
                        let what = format!("{level:?} {dtype} t{t} s{s} h{h} d{d}, pages of {page}");
                        let (ks, vs) = (cut(&k, page), cut(&v, page));
                        // Products of bf16 emulated where the machine has none.
                        for pairs in [false, true] {
                            simd::force_pairs(pairs);
                            let mut want = Tensor::empty([t, h, d], DType::F32);
                            let mut got = Tensor::empty([t, h, d], DType::F32);
                            forward(q.view(), k.view(), v.view(), want.view_mut()).unwrap();
                            forward_pages(q.view(), &views(&ks), &views(&vs), got.view_mut()).unwrap();
                            assert!(bits(&got) == bits(&want), "{what}, pairs: {pairs}");
                        }
                        simd::force_pairs(false);
                    }
                }
            }
        }
    }
    simd::force(*simd::LEVELS.last().unwrap());
}

#[test]
fn nor_does_it_in_a_cache_of_bytes() {
    let _lock = serial();
    let mut rng = Rng::new(12);
    let rows = |x: View| {
        let mut rows = Int8Rows::new(3, 64);
        rows.extend(x).unwrap();
        rows
    };
    for s in [1, 64, 65, 200, 300, 801] {
        let (k, v) = (rng.tensor(&[s, 3, 64], 1.0, DType::F32), rng.tensor(&[s, 3, 64], 1.0, DType::F32));
        let pages = |x: &Tensor| -> Vec<_> {
            (0..s).step_by(64).map(|at| rows(x.rows(at, s.min(at + 64)))).collect()
        };
        for t in [1, 5, 17].into_iter().filter(|t| *t <= s) {
            let q = rng.tensor(&[t, 9, 64], 1.0, DType::F32);
            let (mut want, mut got) =
                (Tensor::empty([t, 9, 64], DType::F32), Tensor::empty([t, 9, 64], DType::F32));
            forward_int8(q.view(), &[&rows(k.view())], &[&rows(v.view())], want.view_mut()).unwrap();
            let (k, v) = (pages(&k), pages(&v));
            let (k, v): (Vec<_>, Vec<_>) = (k.iter().collect(), v.iter().collect());
            forward_int8(q.view(), &k, &v, got.view_mut()).unwrap();
            assert!(bits(&got) == bits(&want), "t{t} s{s}");
        }
    }
}

#[test]
fn pages_that_do_not_fit_are_refused() {
    let rows = |n| Tensor::zeros([n, 2, 8], DType::F32);
    let (four, three, five) = (rows(4), rows(3), rows(5));
    let (q, half) = (Tensor::zeros([2, 4, 8], DType::F32), rows(4).to_dtype(DType::BF16).unwrap());
    let mut out = Tensor::zeros([2, 4, 8], DType::F32);
    let mut run =
        |k: &[&Tensor], v: &[&Tensor]| forward_pages(q.view(), &whole(k), &whole(v), out.view_mut());
    run(&[&four, &four, &three], &[&four, &four, &three]).unwrap();
    for (k, v) in [
        (&[][..], &[][..]),
        (&[&four, &four], &[&four]),
        (&[&four, &three, &four], &[&four, &three, &four]),
        (&[&four, &five], &[&four, &five]),
        (&[&four, &four], &[&four, &three]),
        (&[&four, &half], &[&four, &half]),
    ] {
        let e = run(k, v).unwrap_err();
        let typed = matches!(e, Error::Argument { .. } | Error::Shape { .. } | Error::DType { .. });
        assert!(typed && e.to_string().starts_with("softmax_attention: "), "{e}");
    }
}
