//! Every form: one pass, any split, token by token and (where the form allows it) a fold of a KV cache are one function.

use dsla_core::attention::{DslaAttention, rotated, softmax_attention};
use dsla_core::kernels::case::Rng;
use dsla_core::kernels::ops::rope::Table;
use dsla_core::*;

const HEADS: Heads = Heads { heads: 6, kv_heads: 2, head_dim: 16 };
const HIDDEN: usize = 40;

fn forms() -> Vec<Form> {
    let native = Form::native();
    let small = Form { window: 8, sinks: 3, ..native };
    let mut forms = vec![
        native,
        Form::paper(),
        small,
        Form { sinks: 0, ..small },
        Form { window: 0, sinks: 0, peak_slope: false, ..native },
        Form { projections: Projections::Lora { rank: 3 }, ..small },
        Form { projections: Projections::Full, ..small },
        Form { feature_map: FeatureMap::Softmax, ..small },
        Form { gamma: Gamma::History, ..small },
        Form { gamma: Gamma::Recency, window: 0, sinks: 0, peak_slope: false, ..native },
    ];
    for gate in [Gate::Scalar, Gate::Vector] {
        for gate_input in [GateInput::Hidden, GateInput::Kv] {
            for gamma in [Gamma::Layer, Gamma::Head] {
                forms.push(Form { gate, gate_input, gamma, ..small });
                for rope in [false, true] {
                    for normalizer in [Normalizer::None, Normalizer::Rms] {
                        forms.push(Form { gate, gate_input, gamma, rope, normalizer, ..Form::paper() });
                    }
                }
            }
        }
    }
    forms.iter().for_each(|f| f.check().unwrap());
    forms
}

/// A layer away from its start: every parameter moved.
fn layer(form: Form) -> DslaAttention {
    let mut rng = Rng::new(5);
    let mut params = DslaParams::init(&form, HEADS, HIDDEN);
    let forced = matches!(form.gamma, Gamma::History | Gamma::Recency);
    for (name, t) in params.tensors_mut() {
        if !(forced && name == "gamma") {
            t.f32_mut().iter_mut().for_each(|v| *v += 0.3 * rng.normal() as f32);
        }
    }
    DslaAttention::new(form, params, HEADS)
}

fn inputs(t: usize) -> Projected {
    let mut rng = Rng::new(t as u64);
    let mut make = |heads: usize| rng.tensor(&[t, heads, HEADS.head_dim], 0.7, DType::F32);
    let (q, k, v) = (make(HEADS.heads), make(HEADS.kv_heads), make(HEADS.kv_heads));
    Projected { q, k, v, hidden: Some(Rng::new(9).tensor(&[t, HIDDEN], 1.0, DType::F32)) }
}

fn rows(x: &Projected, a: usize, b: usize) -> Projected {
    let cut = |t: &Tensor| {
        let mut out = Tensor::zeros([&[0], &t.dims()[1..]].concat().as_slice(), DType::F32);
        out.extend(t.rows(a, b)).unwrap();
        out
    };
    Projected { q: cut(&x.q), k: cut(&x.k), v: cut(&x.v), hidden: x.hidden.as_ref().map(cut) }
}

fn close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let scale = want.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt() / (want.len() as f64).sqrt();
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            ((g - w).abs() as f64) <= 3e-5 * scale.max(w.abs() as f64) + 1e-7,
            "{what}: element {i}: got {g}, want {w}"
        );
    }
}

#[test]
fn any_split_is_one_pass() {
    let table = Table::new(&(0..8).map(|i| 10f64.powf(-i as f64 / 2.0)).collect::<Vec<_>>(), 512, 1.0);
    for form in forms() {
        let layer = layer(form);
        let x = inputs(150);
        let mut whole_state = layer.state(DType::F32).unwrap();
        let whole = layer.forward(x.clone(), &table, &mut whole_state, DType::F32).unwrap();
        for split in [vec![1; 150], vec![64, 64, 22], vec![1, 2, 3, 5, 7, 60, 1, 71], vec![149, 1]] {
            let (mut state, mut at, mut out) = (layer.state(DType::F32).unwrap(), 0, vec![]);
            for n in &split {
                out.extend_from_slice(
                    layer.forward(rows(&x, at, at + n), &table, &mut state, DType::F32).unwrap().f32(),
                );
                at += n;
            }
            let what = format!("{form:?} split {:?}", &split[..split.len().min(8)]);
            close(&out, whole.f32(), &what);
            close(state.s.f32(), whole_state.s.f32(), &format!("{what} S"));
            close(state.z.f32(), whole_state.z.f32(), &format!("{what} z"));
            assert_eq!(state.ring.k.f32(), whole_state.ring.k.f32(), "{what} ring");
            assert_eq!(state.bytes(), layer.state_bytes(DType::F32), "{what} bytes");
        }
    }
}

#[test]
fn tokens_that_nobody_reads_leave_the_same_bits() {
    let table = Table::new(&(0..8).map(|i| 10f64.powf(-i as f64 / 2.0)).collect::<Vec<_>>(), 512, 1.0);
    for (form, dtype) in forms().into_iter().flat_map(|f| [(f, DType::F32), (f, DType::BF16)]) {
        let layer = layer(form);
        let x = inputs(150);
        let [mut read, mut unread] = [(), ()].map(|()| layer.state(dtype).unwrap());
        for (from, to) in [(0, 1), (1, 3), (3, 70), (70, 134), (134, 135), (135, 150)] {
            layer.forward(rows(&x, from, to), &table, &mut read, DType::F32).unwrap();
            layer.take_in(rows(&x, from, to), &table, &mut unread).unwrap();
            let bits = |s: &DslaState| {
                let rings = [&s.ring.k, &s.ring.v, &s.sinks.k, &s.sinks.v].map(|x| x.to_vec_f32());
                (s.s.to_vec_f32(), s.z.to_vec_f32(), rings, s.ring_decay.to_vec_f32(), s.len)
            };
            assert_eq!(bits(&unread), bits(&read), "{form:?} {dtype} up to {to}");
        }
    }
}

#[test]
fn fold_is_having_run_from_the_first_token() {
    let table = Table::new(&(0..8).map(|i| 10f64.powf(-i as f64 / 2.0)).collect::<Vec<_>>(), 512, 1.0);
    for form in forms() {
        let layer = layer(form);
        for t in [1, 5, 63, 64, 65, 150] {
            let x = inputs(t);
            let mut cache = KvCache::new(HEADS, DType::F32, Device::Cpu).unwrap();
            softmax_attention(x.clone(), &table, &mut cache).unwrap();
            let folded = layer.fold(&cache, &table, DType::F32);
            if !form.foldable() {
                assert!(folded.unwrap_err().to_string().contains("fold"), "{form:?}");
                continue;
            }
            let (mut folded, mut state) = (folded.unwrap(), layer.state(DType::F32).unwrap());
            layer.forward(x.clone(), &table, &mut state, DType::F32).unwrap();
            let what = format!("{form:?} t {t}");
            close(folded.s.f32(), state.s.f32(), &what);
            close(folded.z.f32(), state.z.f32(), &what);
            assert_eq!(folded.len, state.len);
            // And it goes on alike.
            let next = inputs(9);
            let a = layer.forward(next.clone(), &table, &mut folded, DType::F32).unwrap();
            let b = layer.forward(next.clone(), &table, &mut state, DType::F32).unwrap();
            close(a.f32(), b.f32(), &format!("{what} after"));
        }
    }
}

#[test]
fn parameter_gradients_match_finite_differences() {
    let table = Table::new(&(0..8).map(|i| 10f64.powf(-i as f64 / 2.0)).collect::<Vec<_>>(), 512, 1.0);
    for form in forms() {
        let mut layer = layer(form);
        let x = inputs(45);
        let (q, k) = if form.rope {
            (rotated(&x.q, 0, &table).unwrap(), rotated(&x.k, 0, &table).unwrap())
        } else {
            (x.q.clone(), x.k.clone())
        };
        let mut rng = Rng::new(3);
        let d_out = rng.tensor(&[45, HEADS.heads, HEADS.head_dim], 1.0, DType::F32);
        let run = |layer: &DslaAttention| {
            layer.forward_train(q.clone(), k.clone(), x.v.clone(), &x.k, x.hidden.as_ref()).unwrap()
        };
        let mut grads = layer.params.zeros_like().unwrap();
        layer.backward(&run(&layer), d_out.view(), &mut grads).unwrap();
        let loss = |layer: &DslaAttention| {
            run(layer).out().f32().iter().zip(d_out.f32()).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>()
        };
        let grads: Vec<Vec<f32>> = grads.tensors().iter().map(|(_, t)| t.f32().to_vec()).collect();
        for (i, grad) in grads.iter().enumerate() {
            let name = layer.params.tensors()[i].0;
            let dir: Vec<f32> = grad.iter().map(|_| rng.normal() as f32).collect();
            let h = 2e-3;
            let mut at = |s: f32| {
                let moved = |layer: &mut DslaAttention, s: f32| {
                    let mut all = layer.params.tensors_mut();
                    all[i].1.f32_mut().iter_mut().zip(&dir).for_each(|(p, d)| *p += s * d);
                };
                moved(&mut layer, s);
                let l = loss(&layer);
                moved(&mut layer, -s);
                l
            };
            let want = (at(h) - at(-h)) / (2.0 * h as f64);
            let got: f64 = grad.iter().zip(&dir).map(|(g, d)| *g as f64 * *d as f64).sum();
            let scale = grad.iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt();
            assert!(
                (got - want).abs() <= 0.02 * scale.max(want.abs()) + 2e-3,
                "{form:?} {name}: got {got}, want {want}"
            );
        }
    }
}

/// Along random directions of q, k, v and the layer's input, through rotation, feature maps and gates.
#[test]
fn input_gradients_match_finite_differences() {
    let table = Table::new(&(0..8).map(|i| 10f64.powf(-i as f64 / 2.0)).collect::<Vec<_>>(), 512, 1.0);
    for form in forms() {
        let layer = layer(form);
        let x = inputs(45);
        let mut rng = Rng::new(4);
        let d_out = rng.tensor(&[45, HEADS.heads, HEADS.head_dim], 1.0, DType::F32);
        let run = |x: &Projected| {
            let turned = |x: &Tensor| if form.rope { rotated(x, 0, &table).unwrap() } else { x.clone() };
            let (q, k) = (turned(&x.q), turned(&x.k));
            layer.forward_train(q, k, x.v.clone(), &x.k, x.hidden.as_ref()).unwrap()
        };
        let mut grads = layer.params.zeros_like().unwrap();
        let found = layer.backward_inputs(&run(&x), d_out.view(), &table, &mut grads).unwrap();
        let mut same = layer.params.zeros_like().unwrap();
        layer.backward(&run(&x), d_out.view(), &mut same).unwrap();
        for ((name, a), (_, b)) in grads.tensors().into_iter().zip(same.tensors()) {
            assert!(a.f32() == b.f32(), "{form:?}: {name} depends on whether inputs are asked for");
        }
        assert_eq!(found.hidden.is_some(), form.gate_input == GateInput::Hidden);
        for (name, grad) in [
            ("q", Some(&found.q)),
            ("k", Some(&found.k)),
            ("v", Some(&found.v)),
            ("hidden", found.hidden.as_ref()),
        ] {
            let Some(grad) = grad else { continue };
            let dir: Vec<f32> = (0..grad.len()).map(|_| rng.normal() as f32).collect();
            let h = 5e-4;
            let loss = |s: f32| {
                let mut x = x.clone();
                let t = match name {
                    "q" => &mut x.q,
                    "k" => &mut x.k,
                    "v" => &mut x.v,
                    _ => x.hidden.as_mut().unwrap(),
                };
                t.f32_mut().iter_mut().zip(&dir).for_each(|(p, d)| *p += s * d);
                run(&x).out().f32().iter().zip(d_out.f32()).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>()
            };
            let want = (loss(h) - loss(-h)) / (2.0 * h as f64);
            let got: f64 = grad.f32().iter().zip(&dir).map(|(g, d)| *g as f64 * *d as f64).sum();
            let scale = grad.f32().iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt();
            assert!(
                (got - want).abs() <= 0.02 * scale.max(want.abs()) + 1e-2,
                "{form:?} {name}: got {got}, want {want}, norm {scale}"
            );
        }
    }
}

#[test]
fn impossible_forms_are_named() {
    let native = Form::native();
    for (form, word) in [
        (Form { gate_scale: 0.0, ..native }, "gate_scale"),
        (Form { gate_scale: f32::NAN, ..native }, "gate_scale"),
        (Form { normalizer: Normalizer::None, ..native }, "normalizer"),
        (Form { rope: false, ..native }, "rope"),
        (Form { window: 1 << 40, ..native }, "window"),
        (Form { sinks: 9999, ..native }, "sinks"),
        (Form { window: 0, ..native }, "sinks"),
        (Form { projections: Projections::Lora { rank: 0 }, ..native }, "projections"),
    ] {
        assert!(form.check().unwrap_err().contains(word), "{form:?}");
    }
}
