//! Where a prompt can be cut without changing a bit: what a prefix cache may keep, and what an engine may feed at a time.

use dsla_model::{Adapter, DType, Device, Form, Model, Plan, Quant, Sequence, Step, Want, WeightFormat, hub};
use std::path::{Path, PathBuf};

const REAL: &str = "smollm2-135m-instruct";

fn tiny(form: &Form, format: impl Into<WeightFormat>) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_llama3");
    let model = Model::load(path, &Device::Cpu, format).unwrap();
    let adapter = Adapter::init(&model, form).unwrap();
    model.with_positions(600).unwrap().with_adapter_value(adapter).unwrap()
}

/// Feed the tokens in pieces: the last token's logits, and the sequence.
fn feed(model: &Model, plan: &Plan, tokens: &[u32], pieces: &[usize]) -> (Vec<u32>, Sequence) {
    let mut seq = model.new_sequence(plan).unwrap();
    let (mut at, mut last) = (0, vec![]);
    for (i, n) in pieces.iter().enumerate() {
        let part = &tokens[at..at + n];
        // Every other piece is one that nobody reads.
        let logits = if i % 2 == 0 && i + 1 < pieces.len() { Want::None } else { Want::Last };
        let out = model.forward(&mut [Step { seq: &mut seq, tokens: part, logits }]).unwrap();
        last = out.f32().iter().map(|x| x.to_bits()).collect();
        at += n;
    }
    assert_eq!(at, tokens.len());
    (last, seq)
}

/// Pieces of n tokens, and the rest.
fn every(n: usize, total: usize) -> Vec<usize> {
    let mut all = vec![n; total / n];
    all.extend((!total.is_multiple_of(n)).then_some(total % n));
    all
}

/// Whether these pieces leave the same bits as one call: logits, states, and the logits of tokens that follow.
fn same(model: &Model, plan: &Plan, tokens: &[u32], pieces: &[usize]) -> bool {
    let ((want, mut a), (got, mut b)) =
        (feed(model, plan, tokens, &[tokens.len()]), feed(model, plan, tokens, pieces));
    let state = |s: &Sequence, l| s.state(l).map(|s| [s.s.f32(), s.z.f32()].concat());
    let states = (0..model.config().num_layers).all(|l| state(&a, l) == state(&b, l));
    let next = |s: &mut Sequence| {
        let steps = &mut [Step { seq: s, tokens: &[7], logits: Want::Last }];
        model.forward(steps).unwrap().f32().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    states && want == got && next(&mut a) == next(&mut b)
}

#[test]
fn cuts_at_64_tokens_change_no_bit() {
    let windows = [Form::native(), Form { window: 128, sinks: 2, ..Form::native() }];
    for form in windows.iter().chain([&Form::paper()]) {
        for dtype in [DType::F32, DType::BF16] {
            let model = tiny(form, dtype);
            for total in [81, 128, 150, 200, 273, 410] {
                let tokens: Vec<u32> = (0..total).map(|i| (i * i * 7 + 3 * i) as u32 % 50).collect();
                for k in [0, 1, 2] {
                    for pieces in [every(64, total), every(128, total), every(192, total)] {
                        let short = pieces.iter().any(|n| *n <= 16);
                        let what = format!("{form:?} {dtype} {k} converted, {total} in {pieces:?}");
                        assert!(short || same(&model, &model.plan(k), &tokens, &pieces), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn softmax_layers_take_any_cut_of_more_than_16_tokens() {
    for dtype in [DType::F32, DType::BF16] {
        let model = tiny(&Form::native(), dtype);
        let tokens: Vec<u32> = (0..250).map(|i| (i * i * 5 + i) as u32 % 50).collect();
        for pieces in [vec![17, 233], vec![100, 150], vec![129, 33, 88], every(50, 250), vec![65, 168, 17]] {
            assert!(same(&model, &model.plan(0), &tokens, &pieces), "{dtype} {pieces:?}");
        }
    }
}

/// Shares of its layers converted, in the formats it is served in.
#[test]
fn the_real_model_too() {
    let path: PathBuf = hub::fetch(REAL, &mut |_| {}).unwrap();
    let adapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("adapters").join(REAL);
    for format in [WeightFormat::from(DType::BF16), Quant::Q4_1.into()] {
        let model = Model::load(&path, &Device::Cpu, format).unwrap().with_adapter(&adapter).unwrap();
        let text = include_str!("../../LICENSE-APACHE");
        let tokens = model.tokenizer().unwrap().encode(text, false).unwrap();
        for (k, pieces) in [(0, vec![50, 83, 17]), (15, vec![64, 64, 22]), (30, vec![64, 64, 22])] {
            assert!(
                same(&model, &model.plan(k), &tokens[..150], &pieces),
                "{format} {k} converted: {pieces:?}"
            );
        }
    }
}
