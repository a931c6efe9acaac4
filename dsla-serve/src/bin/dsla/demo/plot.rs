//! The demo's picture: three panels over time, both engines in each.

use dsla_distill::chart::{Panel, svg};
use dsla_serve::StepReport;

/// Draw teacher-only and adaptive runs.
pub fn draw(teacher: &[StepReport], adaptive: &[StepReport]) -> String {
    let both = |f: fn(&StepReport) -> f64| {
        [teacher, adaptive].map(|r| r.iter().map(|r| (r.at.as_secs_f64(), f(r))).collect()).into()
    };
    let panel = |title: &str, lines| Panel { title: title.into(), lines };
    let panels = [
        panel("layers converted for new sequences", both(|r| r.stats.converted_target as f64)),
        panel("KV cache and states, MB", both(|r| (r.stats.kv_bytes + r.stats.state_bytes) as f64 / 1e6)),
        panel("tokens per second (prompt and new)", [teacher, adaptive].map(speed).into()),
    ];
    svg(&["teacher only", "adaptive"], "s", &panels)
}

/// Tokens per second over windows of a second.
fn speed(reports: &[StepReport]) -> Vec<(f64, f64)> {
    let mut points = vec![];
    let (mut from, mut sum) = (0.0, 0);
    for r in reports {
        sum += r.prompt_tokens + r.generated_tokens;
        let now = r.at.as_secs_f64();
        if now - from >= 1.0 {
            points.push((now, sum as f64 / (now - from)));
            (from, sum) = (now, 0);
        }
    }
    points
}
