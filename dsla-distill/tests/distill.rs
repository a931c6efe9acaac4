//! Distillation on a small model: it learns, it repeats to the bit, and it survives being killed.

use dsla_core::{DType, Device, Form};
use dsla_distill::{
    Config, Corpus, Event, Lesson, Metric, Stage, Training, ablate, distill, prefixes, sensitivity, variants,
};
use dsla_model::{Model, Plan};
use std::path::Path;

fn model() -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dsla-model/tests/fixtures/tiny_llama3");
    Model::load(dir, &Device::Cpu, DType::F32).unwrap()
}

fn corpus() -> Corpus {
    let mut c = Corpus::default();
    let mut x = 1u32;
    c.add(
        (0..4000)
            .map(|_| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (x >> 16) % 50
            })
            .collect::<Vec<u32>>(),
    );
    c
}

fn config() -> Config {
    let mut c = Config::new(Form { window: 8, sinks: 2, ..Form::native() }, 40 * 64);
    c.align = Training { batch_tokens: 64, lengths: vec![32, 64], ..c.align };
    c.chain.training = Training { tokens: 12 * 48, batch_tokens: 48, lengths: vec![24, 48], lr: 1e-2 };
    c.stages = vec![Stage::Calibrate, Stage::Align, Stage::Rank, Stage::Chain];
    c.checkpoint_every = 5;
    (c.rank_windows, c.rank_context) = (2, 48);
    c
}

fn files(dir: &Path) -> Vec<Vec<u8>> {
    ["dsla_adapter.safetensors", "dsla_adapter.json", "metrics.jsonl", "checkpoint.bin"]
        .map(|f| std::fs::read(dir.join(f)).unwrap_or_else(|e| panic!("{f}: {e}")))
        .into()
}

#[test]
fn it_learns_and_every_file_is_there() {
    let (dir, mut losses) = (tempfile::tempdir().unwrap(), vec![]);
    let config = Config {
        stages: vec![Stage::Align, Stage::Rank],
        align: Training { tokens: 300 * 64, batch_tokens: 64, lengths: vec![64], lr: 3e-2 },
        ..config()
    };
    let adapter = distill(&model(), &corpus(), &config, None, dir.path(), false, |e| {
        if let Event::Step { loss, .. } = e {
            losses.push(loss);
        }
    })
    .unwrap();
    let (head, tail) = (losses[..10].iter().sum::<f64>(), losses[290..].iter().sum::<f64>());
    assert!(tail < 0.8 * head, "loss went from {head} to {tail}");
    assert_eq!(adapter.quality.len(), 3);
    assert!(adapter.quality[0].kl < 1e-6 && adapter.quality[2].kl > adapter.quality[0].kl);
    files(dir.path());
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("polyline") && page.contains("</table>"));
    assert!(model().with_adapter(dir.path()).unwrap().new_sequence(&Plan::of_layers(2, &[0, 1])).is_ok());
}

/// A child process trains and kills itself with SIGKILL at a step; the run that resumes writes the same bytes as one
/// that was never interrupted.
#[test]
fn a_killed_run_continues_bit_for_bit() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    distill(&model(), &corpus(), &config(), None, whole.path(), false, |_| {}).unwrap();
    for step in ["align 3", "align 17", "chain 7"] {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed_child", "--ignored", "--nocapture"])
            .env("DSLA_TEST_DIR", cut.path())
            .env("DSLA_TEST_STEP", step)
            .output()
            .unwrap();
        assert!(!child.status.success() && child.status.code().is_none(), "the child was killed: {child:?}");
    }
    distill(&model(), &corpus(), &config(), None, cut.path(), true, |_| {}).unwrap();
    assert!(files(whole.path()) == files(cut.path()), "bytes differ");
}

#[test]
#[ignore = "run by a_killed_run_continues_bit_for_bit in a process of its own"]
fn killed_child() {
    let dir = std::env::var("DSLA_TEST_DIR").unwrap();
    let at = std::env::var("DSLA_TEST_STEP").unwrap();
    let resume = Path::new(&dir).join("checkpoint.bin").exists();
    distill(&model(), &corpus(), &config(), None, Path::new(&dir), resume, |e| {
        if matches!(e, Event::Step { stage, step, .. } if format!("{stage:?} {step}").to_lowercase() == at) {
            let _ = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            std::thread::sleep(std::time::Duration::from_secs(10));
        }
    })
    .unwrap();
}

#[test]
fn strangers_checkpoints_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = |config: &Config, resume| {
        distill(&model(), &corpus(), config, None, dir.path(), resume, |_| {})
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    let training = config().align;
    let short = Config {
        align: Training { tokens: 128, ..training.clone() },
        stages: vec![Stage::Align],
        ..config()
    };
    let align = |align| Config { align, ..short.clone() };
    run(&short, true).unwrap();
    assert!(dir.path().join("checkpoint.bin").exists(), "nothing to resume from: from the start");
    assert!(run(&align(Training { lr: 0.5, ..training.clone() }), true).unwrap_err().contains("settings"));
    let path = dir.path().join("checkpoint.bin");
    let bytes = std::fs::read(&path).unwrap();
    for n in [0, 7, 12, 40, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..n]).unwrap();
        let e = run(&short, true).unwrap_err();
        assert!(e.contains("checkpoint.bin") && !e.contains('\n'), "{e}");
    }
    let mut huge = bytes.clone();
    huge[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, &huge).unwrap();
    assert!(run(&short, true).is_err());
    for bad in [
        align(Training { lr: f64::NAN, ..training.clone() }),
        align(Training { lengths: vec![], ..training.clone() }),
        align(Training { lengths: vec![1 << 40], ..training.clone() }),
        Config { layers: Some(vec![2]), ..short.clone() },
        Config { stages: vec![], ..short.clone() },
    ] {
        assert!(run(&bad, false).is_err());
    }
}

#[test]
fn every_metric_orders_every_layer_once() {
    let m = model();
    let adapter = dsla_model::Adapter::init(&m, &config().form).unwrap();
    let hybrid = m.clone().with_adapter_value(adapter).unwrap();
    let tokens: Vec<u32> = (0..96).map(|i| i * 5 % 50).collect();
    for name in ["greedy", "kl", "entropy", "entropy_desc", "depth", "uniform", "random", "adapter"] {
        let metric: Metric = name.parse().unwrap();
        let mut s = sensitivity(&hybrid, metric, &[&tokens], |_, _| {}).unwrap();
        s.order.sort();
        assert_eq!(s.order, [0, 1], "{name}");
        assert!(s.scores.iter().all(|v| v.is_finite()));
    }
    assert!(sensitivity(&m, Metric::Greedy, &[&tokens], |_, _| {}).is_err(), "no adapter");
    assert!("best".parse::<Metric>().is_err());
    let q = prefixes(&hybrid, &[1, 0], &[0, 2], &[&tokens], |_, _| {}).unwrap();
    assert!(q[0].kl < 1e-9 && q[1].kl > 1e-6 && q[1].converted == 2 && q[1].tokens == 96, "{q:?}");
    assert!(prefixes(&hybrid, &[1, 0], &[3], &[&tokens], |_, _| {}).is_err(), "the order has two");
}

/// On a model of two layers every form of the table is aligned; one state cannot beat two by much, and the paper's form
/// ends where its start says: far away or no number at all.
#[test]
fn a_table_of_forms() {
    let model = model();
    let rows: Vec<_> = variants()
        .into_iter()
        .map(|mut v| {
            // Windows that this model's short texts leave.
            v.form.window /= 8;
            v.form.sinks /= 2;
            v
        })
        .collect();
    let settings = Training { tokens: 40 * 64, batch_tokens: 64, lengths: vec![64], lr: 2e-2 };
    let lesson = Lesson {
        align: settings.clone(),
        chain: Training { lr: 5e-3, ..settings },
        seed: 0,
        windows: 2,
        context: 48,
    };
    let run = || ablate(&model, &corpus(), &rows, &[0, 1], &lesson, |_, _, _| {}).unwrap();
    let found = run();
    assert_eq!(found.len(), rows.len());
    let of = |group: &str, name: &str| {
        let o = found.iter().find(|o| o.group == group && o.name.contains(name));
        o.unwrap_or_else(|| panic!("{group}: {name}"))
    };
    let native = of("native", "");
    assert!(native.error > 0.0 && native.error < 1.0 && native.kl > 0.0, "{native:?}");
    assert!(of("window", "16").error < of("window", "0").error, "a window helps");
    assert_eq!(
        of("states without window", "two of F = D").state_bytes,
        of("states without window", "one of F = 2 D: history").state_bytes,
        "compared at equal size"
    );
    // That a chain learns is tested by itself; here, that these rows had one, each of its kind.
    let (random, frozen) = (of("chain", "random"), of("chain", "frozen"));
    assert!(
        random.kl != native.kl && frozen.kl != native.kl && random.kl != frozen.kl,
        "{random:?} {frozen:?}"
    );
    for (a, b) in found.iter().zip(run()) {
        assert!(a.error.to_bits() == b.error.to_bits() && a.kl.to_bits() == b.kl.to_bits(), "{a:?} {b:?}");
    }
}
