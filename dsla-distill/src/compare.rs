//! Orders held against each other: what the first k layers of each cost.

use crate::{Error, Result};
use dsla_model::eval::divergence;
use dsla_model::{Model, Plan, PrefixQuality};

/// Quality of the first `k` layers of `order` for each k of `at`, on `windows` of text. `progress` sees (windows done,
/// windows).
///
/// Errors: a k beyond the order; a layer that the model's adapter lacks.
pub fn prefixes(
    model: &Model,
    order: &[usize],
    at: &[usize],
    windows: &[&[u32]],
    progress: impl FnMut(usize, usize),
) -> Result<Vec<PrefixQuality>> {
    if let Some(k) = at.iter().find(|&&k| k > order.len()) {
        let want = format!("at most the order's {}", order.len());
        return Err(Error::Argument { arg: "at", got: format!("{k} layers"), want });
    }
    let n = model.config().num_layers;
    let plans: Vec<Plan> = at.iter().map(|&k| Plan::of_layers(n, &order[..k])).collect();
    let found = divergence(model, &plans, windows, progress)?;
    let quality = at.iter().zip(&found).map(|(&converted, d)| PrefixQuality {
        converted,
        kl: d.kl.max(0.0),
        ppl_ratio: d.ppl / d.teacher_ppl,
        top1_agreement: d.top1_agreement,
        tokens: d.tokens,
    });
    Ok(quality.collect())
}
