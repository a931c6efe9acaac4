//! The whole stack on `Device::Cuda`, through cudarc, unmodified, over the fake driver, which executes the PTX: a hybrid
//! Llama of random weights generates the CPU's tokens, one step of alignment gives the CPU's gradients, the engine folds
//! a running sequence, nothing is leaked, and an allocation that fails ends one request and no other.

use dsla_distill::align_gradients;
use dsla_model::core::PAGE;
use dsla_model::generate::{Options, generate, prefill};
use dsla_model::sample::Params;
use dsla_model::{Adapter, DType, Device, Form, GraphDecoder, Model, Plan, PrefixQuality, Step, Want};
use dsla_serve::{Engine, EngineConfig, FinishReason, Policy, Request, SamplingParams, Threshold};
use ptxsim_cuda::Fake;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

const GPU: Device = Device::Cuda(0);
const VOCAB: usize = 61;

/// The fake driver, unless DSLA_REAL_GPU is set (`cargo xtask gpu-check`). One per process: tests take turns.
struct Driver(Option<Fake>, #[expect(dead_code)] MutexGuard<'static, ()>);

fn driver() -> Driver {
    static LOCK: Mutex<()> = Mutex::new(());
    let lock = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    if std::env::var_os("DSLA_REAL_GPU").is_some() {
        return Driver(None, lock);
    }
    Driver(Some(Fake::install().expect("the fake driver is built beside this test")), lock)
}

impl Driver {
    fn faults(&self) -> String {
        self.0.iter().flat_map(|f| f.take_faults()).map(|f| format!("\n  {f}")).collect()
    }

    fn live(&self) -> (u64, u64) {
        self.0.as_ref().map_or((0, 0), |f| (f.live_bytes(), f.live_allocations()))
    }
}

/// Two layers, two query heads over one kv head of size 64: the smallest shape that has GPU kernels.
fn checkpoint(dir: &Path) {
    let (c, f) = (64, 96);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_string(), vec![VOCAB, c]),
        ("model.norm.weight".into(), vec![c]),
    ];
    for l in 0..2 {
        for (name, shape) in [
            ("self_attn.q_proj", vec![128, c]),
            ("self_attn.k_proj", vec![64, c]),
            ("self_attn.v_proj", vec![64, c]),
            ("self_attn.o_proj", vec![c, 128]),
            ("mlp.gate_proj", vec![f, c]),
            ("mlp.up_proj", vec![f, c]),
            ("mlp.down_proj", vec![c, f]),
            ("input_layernorm", vec![c]),
            ("post_attention_layernorm", vec![c]),
        ] {
            shapes.push((format!("model.layers.{l}.{name}.weight"), shape));
        }
    }
    let mut rng = dsla_model::core::kernels::case::Rng::new(11);
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (name, shape) in shapes {
        let n: usize = shape.iter().product();
        let norm = shape.len() == 1;
        let begin = data.len();
        for _ in 0..n {
            let x = if norm { 1.0 + 0.1 * rng.normal() } else { 0.15 * rng.normal() };
            data.extend_from_slice(&(x as f32).to_le_bytes());
        }
        header.insert(
            name,
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}),
        );
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    std::fs::write(dir.join("model.safetensors"), file).expect("weights");
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": c, "intermediate_size": f,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "vocab_size": VOCAB,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true,
        "attention_bias": false, "mlp_bias": false, "bos_token_id": 1, "eos_token_id": 2, "rope_theta": 10000.0,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).expect("a configuration");
}

fn model(device: Device, dtype: DType, form: &Form) -> Model {
    let dir = tempfile::tempdir().expect("a directory");
    checkpoint(dir.path());
    let model = Model::load(dir.path(), &device, dtype).expect("a model");
    let mut adapter = Adapter::init(&model, form).expect("an adapter");
    for converted in 1..=2 {
        let kl = 0.1 * converted as f64;
        adapter.quality.push(PrefixQuality { converted, kl, ppl_ratio: 1.0, top1_agreement: 1.0, tokens: 1 });
    }
    model.with_adapter_value(adapter).expect("it fits")
}

fn prompt(n: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((7 * i * i + 13 * n + 5 * i * n + 3) % 58 + 3) as u32).collect()
}

fn greedy(max_tokens: usize) -> Options {
    let params = Params { temperature: 0.0, ..Params::default() };
    Options { max_tokens, params, ignore_eos: true, logprobs: Some(2) }
}

#[test]
fn greedy_tokens_are_those_of_the_cpu() {
    let driver = driver();
    let small = Form { window: 8, sinks: 2, ..Form::native() };
    for form in [Form::native(), small, Form::paper()] {
        let (cpu, gpu) = (model(Device::Cpu, DType::F32, &form), model(GPU, DType::F32, &form));
        for converted in 0..=2 {
            let run = |m: &Model| {
                let plan = m.plan(converted);
                generate(m, &plan, &prompt(0, 90), &greedy(8), |_| true)
                    .unwrap_or_else(|e| panic!("{form:?}, {converted} converted: {e}{}", driver.faults()))
            };
            let (want, got) = (run(&cpu), run(&gpu));
            assert_eq!(got.ids, want.ids, "{form:?}, {converted} converted");
            for (g, w) in got.logprobs.iter().zip(&want.logprobs) {
                assert!(
                    (g.0 - w.0).abs() < 1e-3,
                    "{form:?}, {converted} converted: log probability {} and {}",
                    g.0,
                    w.0
                );
            }
            // In one piece there, in whole pages here.
            let paged =
                got.sequence.kv_bytes() / got.sequence.len() * got.sequence.len().next_multiple_of(PAGE);
            assert_eq!(paged, want.sequence.kv_bytes());
            assert_eq!(got.sequence.state_bytes(), want.sequence.state_bytes());
        }
    }
}

#[test]
fn half_precision_stays_close() {
    let driver = driver();
    let form = Form::native();
    let cpu = model(Device::Cpu, DType::F32, &form);
    for dtype in [DType::BF16, DType::F16] {
        let gpu = model(GPU, dtype, &form);
        for converted in 0..=2 {
            let logits = |m: &Model| {
                let mut seq = m.new_sequence(&m.plan(converted)).expect("a sequence");
                let first = prefill(m, &mut seq, &prompt(0, 150))
                    .and_then(|_| m.forward(&mut [Step { seq: &mut seq, tokens: &[5], logits: Want::Last }]));
                let first = first.unwrap_or_else(|e| panic!("{dtype}: {e}{}", driver.faults()));
                first.to_device(Device::Cpu).expect("a copy").to_vec_f32()
            };
            let (want, got) = (logits(&cpu), logits(&gpu));
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|v| v * v).sum::<f32>().sqrt();
            let error = norm(&mut got.iter().zip(&want).map(|(a, b)| a - b));
            let scale = norm(&mut want.iter().copied());
            assert!(error < 0.03 * scale, "{dtype}, {converted} converted: error {error}, norm {scale}");
        }
    }
}

#[test]
fn a_fold_is_that_of_the_cpu() {
    let driver = driver();
    for form in [Form::native(), Form { window: 8, sinks: 2, ..Form::native() }] {
        let run = |m: &Model| {
            let mut seq = m.new_sequence(&Plan::teacher(2)).expect("a sequence");
            let run = |seq: &mut dsla_model::Sequence| {
                prefill(m, seq, &prompt(2, 100))?;
                m.fold(seq, 1)?;
                m.fold(seq, 0)?;
                assert_eq!((seq.converted(), seq.kv_bytes()), (2, 0));
                m.forward(&mut [Step { seq, tokens: &[7, 8, 9], logits: Want::All }])
            };
            let logits = run(&mut seq).unwrap_or_else(|e| panic!("{e}{}", driver.faults()));
            logits.to_device(Device::Cpu).expect("a copy").to_vec_f32()
        };
        let (want, got) = (run(&model(Device::Cpu, DType::F32, &form)), run(&model(GPU, DType::F32, &form)));
        let far = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 2e-3, "{form:?}: logits differ by {far}");
    }
}

#[test]
fn one_alignment_step_gives_the_same_gradients() {
    let driver = driver();
    for form in [Form::native(), Form { window: 8, sinks: 2, ..Form::native() }, Form::paper()] {
        let run = |device| {
            let m = model(device, DType::F32, &form);
            let (a, b) = (prompt(0, 100), prompt(1, 100));
            align_gradients(&m, m.adapter().expect("one"), &[&a, &b])
                .unwrap_or_else(|e| panic!("{form:?}: {e}{}", driver.faults()))
        };
        let (want, got) = (run(Device::Cpu), run(GPU));
        for (l, (want, got)) in want.iter().zip(&got).enumerate() {
            let (Some((want_loss, want)), Some((got_loss, got))) = (want, got) else {
                panic!("layer {l} has none")
            };
            assert!(
                (want_loss - got_loss).abs() < 1e-4 * want_loss,
                "layer {l}: loss {got_loss}, want {want_loss}"
            );
            for ((name, w), (_, g)) in want.tensors().into_iter().zip(got.tensors()) {
                let norm =
                    |x: &mut dyn Iterator<Item = f32>| x.map(|v| (v as f64).powi(2)).sum::<f64>().sqrt();
                let error = norm(&mut g.f32().iter().zip(w.f32()).map(|(a, b)| a - b));
                let scale = norm(&mut w.f32().iter().copied());
                assert!(
                    error <= 1e-3 * scale + 1e-9,
                    "{form:?} layer {l} {name}: error {error:e}, norm {scale:e}"
                );
            }
        }
    }
}

#[test]
fn alignment_in_half_precision_stays_close() {
    let driver = driver();
    let form = Form::native();
    let run = |device, dtype| {
        let m = model(device, dtype, &form);
        let (a, b) = (prompt(0, 150), prompt(1, 150));
        align_gradients(&m, m.adapter().expect("one"), &[&a, &b])
            .unwrap_or_else(|e| panic!("{e}{}", driver.faults()))
    };
    let (want, got) = (run(Device::Cpu, DType::BF16), run(GPU, DType::BF16));
    for (want, got) in want.iter().zip(&got) {
        let (Some((want, _)), Some((got, grads))) = (want, got) else { panic!("a layer has none") };
        assert!((want - got).abs() < 0.05 * want, "loss {got}, want {want}");
        assert!(grads.tensors().iter().all(|(_, t)| t.f32().iter().all(|v| v.is_finite())));
    }
}

#[test]
fn a_captured_decode_is_the_step_itself() {
    for reorder in [0, 5] {
        let driver = driver();
        if let Some(fake) = &driver.0 {
            fake.set(&ptxsim_cuda::Options { reorder, ..Default::default() });
        }
        let small = Form { window: 8, sinks: 2, ..Form::native() };
        for (dtype, form, converted) in [
            (DType::F32, Form::native(), 0),
            (DType::F32, Form::native(), 2),
            (DType::F32, small, 1),
            (DType::BF16, small, 2),
        ] {
            let m = model(GPU, dtype, &form);
            // Rings that are filling, that fill while decoding, and that are full.
            let mut sequences: Vec<_> = [5, if form.window == 8 { 7 } else { 60 }, 70]
                .map(|len| {
                    let mut seq = m.new_sequence(&m.plan(converted)).expect("a sequence");
                    prefill(&m, &mut seq, &prompt(len, len)).expect("a prompt");
                    seq
                })
                .into();
            let mut replayed = GraphDecoder::new(&m, &sequences, 8).expect("a decoder");
            let mut eager = GraphDecoder::new(&m, &sequences, 8).expect("a decoder").eager();
            for step in 0..6u32 {
                let tokens = [step + 3, 2 * step + 5, 40 - step];
                let host = |v: dsla_model::core::View| {
                    v.to_tensor().and_then(|t| t.to_device(Device::Cpu)).expect("a copy").to_vec_f32()
                };
                let got = host(replayed.step(&tokens).unwrap_or_else(|e| panic!("{e}{}", driver.faults())));
                assert_eq!(
                    got,
                    host(eager.step(&tokens).expect("a step")),
                    "{dtype} {converted} step {step}"
                );
                let mut steps: Vec<Step> = (sequences.iter_mut().zip(&tokens))
                    .map(|(seq, t)| Step { seq, tokens: std::slice::from_ref(t), logits: Want::Last })
                    .collect();
                let want = m.forward(&mut steps).and_then(|t| Ok(t.to_device(Device::Cpu)?)).expect("a step");
                let far = got.iter().zip(want.f32()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(
                    far < if dtype == DType::F32 { 1e-3 } else { 0.1 },
                    "{dtype} {converted} step {step}: {far}"
                );
            }
            assert_eq!(replayed.lens()[0], 11);
            assert!(replayed.step(&[1, 2]).is_err() && replayed.step(&[1, 2, VOCAB as u32]).is_err());
        }
        if let Some(fake) = &driver.0 {
            fake.set(&ptxsim_cuda::Options::default());
        }
    }
}

#[test]
fn the_engine_folds_a_running_sequence() {
    let _driver = driver();
    let model = model(GPU, DType::F32, &Form { window: 8, sinks: 2, ..Form::native() });
    let threshold = Threshold {
        queued_requests: usize::MAX,
        prompt_tokens: 60,
        period: Duration::ZERO,
        cooldown: Duration::ZERO,
        max_rate: 1.0,
        relax_prompt: 0.0,
        step: 2,
        ..Threshold::default()
    };
    let config = EngineConfig {
        policy: Policy::Threshold(threshold),
        max_folds_per_step: 1,
        max_queue: 4,
        ..EngineConfig::default()
    };
    let engine = Engine::new(model, config).expect("an engine");
    let params = |max_tokens| SamplingParams { max_tokens, ignore_eos: true, ..SamplingParams::default() };
    let mut old = engine.submit(Request { prompt: prompt(0, 30), params: params(25) }).expect("accepted");
    let pinned = SamplingParams { rate: Some(0.0), ..params(25) };
    let pinned = engine.submit(Request { prompt: prompt(0, 30), params: pinned }).expect("accepted");
    let mut ids = vec![];
    for _ in 0..3 {
        ids.extend(old.next().expect("an event").expect("a token").token);
    }
    let new = engine.submit(Request { prompt: prompt(1, 60), params: params(2) }).expect("accepted");
    assert_eq!(new.wait().expect("a completion").usage.converted, 2);
    let mut last = None;
    for event in old {
        let event = event.expect("a token");
        ids.extend(event.token);
        last = Some(event);
    }
    let last = last.expect("more events");
    assert_eq!((ids.len(), last.finish, last.usage.converted), (25, Some(FinishReason::Length), 2));
    let pinned = pinned.wait().expect("a completion");
    assert_eq!((pinned.usage.converted, &pinned.ids[..3]), (0, &ids[..3]));
    engine.shutdown(Duration::from_secs(60));
    assert_eq!(engine.stats().folds, 2);
}

#[test]
fn no_device_memory_is_left_behind() {
    let driver = driver();
    // The first use of the device keeps its context and modules; memory is another matter.
    GPU.synchronize().expect("a device");
    let before = driver.live();
    {
        let m = model(GPU, DType::F32, &Form::native());
        let plan = m.plan(1);
        generate(&m, &plan, &prompt(0, 80), &greedy(3), |_| true).expect("text");
        let tokens = prompt(0, 40);
        align_gradients(&m, m.adapter().expect("one"), &[&tokens]).expect("gradients");
    }
    GPU.synchronize().expect("a device");
    assert_eq!(driver.live(), before);
}

#[test]
fn out_of_memory_is_one_line_and_loses_nothing() {
    let driver = driver();
    let m = model(GPU, DType::F32, &Form::native());
    let mut seq = m.new_sequence(&m.plan(1)).expect("a sequence");
    prefill(&m, &mut seq, &prompt(0, 20)).expect("a prompt");
    let Some(fake) = &driver.0 else { return eprintln!("a real driver does not fail on demand") };
    fake.fail_next("cuMemAllocAsync", 2);
    let error =
        m.forward(&mut [Step { seq: &mut seq, tokens: &[4], logits: Want::Last }]).unwrap_err().to_string();
    assert!(error.contains("cuda:0: out of memory") && !error.contains('\n'), "{error}");
    let mut again = m.new_sequence(&m.plan(1)).expect("a sequence");
    prefill(&m, &mut again, &prompt(0, 20)).expect("the device goes on");
}
