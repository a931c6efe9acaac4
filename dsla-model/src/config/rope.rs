//! Rotary frequencies, at the precision the models were trained with.

use crate::{Error, Result};
use std::path::Path;

/// How positions turn queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// How they are changed for long contexts.
    pub kind: RopeKind,
}

/// Changes to the frequencies for long contexts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeKind {
    /// None.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// At least 1 in sensible models; any positive finite number is taken.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, a smooth ramp in between.
    Llama3 {
        /// Divides the lowest frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` are short.
        high_freq_factor: f64,
        /// The context of the first training.
        original_max_position: usize,
    },
    /// Each frequency divided by its own number: the `rope_freqs.weight` tensor of a GGUF file, which stands there
    /// for Llama 3.1's parameters.
    Factors {
        /// `[head_dim / 2]`, positive.
        factors: Vec<f32>,
    },
}

impl Rope {
    /// `[head_dim / 2]` frequencies in radians per position.
    ///
    /// Each step is rounded to f32 in the order of `transformers` (`modeling_rope_utils.py`,
    /// `_compute_*_parameters`): the models were trained with those frequencies, and at position 8000 the unrounded
    /// ones would be off by half a milliradian.
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f64> {
        let base = f64::from(self.theta as f32);
        let plain = (0..head_dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / (base.powf(f64::from(exponent)) as f32)
        });
        match &self.kind {
            RopeKind::Default => plain.map(f64::from).collect(),
            RopeKind::Linear { factor } => plain.map(|f| f64::from(f / *factor as f32)).collect(),
            RopeKind::Factors { factors } => plain.zip(factors).map(|(f, &by)| f64::from(f / by)).collect(),
            &RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                let context = original_max_position as f64;
                let long = (context / low_freq_factor) as f32;
                let short = (context / high_freq_factor) as f32;
                let (low, ramp) = (low_freq_factor as f32, (high_freq_factor - low_freq_factor) as f32);
                let factor = factor as f32;
                let two_pi = (2.0 * std::f64::consts::PI) as f32;
                plain
                    .map(|f| {
                        let wavelength = two_pi / f;
                        if wavelength > long {
                            return f64::from(f / factor);
                        }
                        if wavelength < short {
                            return f64::from(f);
                        }
                        let smooth = (context as f32 / wavelength - low) / ramp;
                        f64::from((1.0 - smooth) * f / factor + smooth * f)
                    })
                    .collect()
            }
        }
    }

    pub(super) fn validate(&self, head_dim: usize, path: &Path) -> Result<()> {
        // Everything is used as f32: within these ranges no frequency becomes zero or infinite.
        let within = |key: &str, x: f64, low: f64, high: f64| {
            if (low..=high).contains(&x) {
                return Ok(());
            }
            Err(Error::file(path, key, x.to_string(), format!("a number in {low:e}..={high:e}")))
        };
        let factor_ok = |key: &str, x: f64| within(key, x, 1e-6, 1e9);
        within("rope_theta", self.theta, 1.0, 1e15)?;
        match &self.kind {
            RopeKind::Default => Ok(()),
            RopeKind::Linear { factor } => factor_ok("rope factor", *factor),
            RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                factor_ok("rope factor", *factor)?;
                factor_ok("rope low_freq_factor", *low_freq_factor)?;
                factor_ok("rope high_freq_factor", *high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    let want = format!("above low_freq_factor = {low_freq_factor}");
                    return Err(Error::file(
                        path,
                        "rope high_freq_factor",
                        high_freq_factor.to_string(),
                        want,
                    ));
                }
                if *original_max_position == 0 || *original_max_position > super::MAX_POSITION {
                    let got = original_max_position.to_string();
                    let want = format!("1..={}", super::MAX_POSITION);
                    return Err(Error::file(path, "rope original_max_position_embeddings", got, want));
                }
                Ok(())
            }
            RopeKind::Factors { factors } => {
                if factors.len() != head_dim / 2 {
                    let want = format!("{} elements, half of head_dim", head_dim / 2);
                    return Err(Error::file(path, "rope_freqs.weight", factors.len().to_string(), want));
                }
                factors.iter().try_for_each(|&f| factor_ok("rope_freqs.weight", f64::from(f)))
            }
        }
    }
}
