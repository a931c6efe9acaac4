//! The trainable parameters of one DSLA layer.

use crate::{FeatureMap, Form, Gamma, Gate, GateInput, Heads, Projections};
use dsla_kernels::ops::axpby;
use dsla_kernels::{Device, Result, Tensor};

/// Parameters of one DSLA layer, all f32 (masters); the same struct holds their gradients.
#[derive(Clone, Debug)]
pub struct DslaParams {
    /// Feature map of the queries [H, D, D]; absent without a feature map.
    pub map_q: Option<Tensor>,
    /// Feature map of the keys [G, D, D].
    pub map_k: Option<Tensor>,
    /// Gate weights [2, G, E, K]: state 0 is history, state 1 recency.
    pub gate_w: Tensor,
    /// Gate biases [2, G, E].
    pub gate_b: Tensor,
    /// Logits of the two states' weights [2, H], or [2, 1] for the whole layer and where they are forced.
    pub gamma: Tensor,
    /// Log weight of the states against the window [H]; absent without a window.
    pub mix: Option<Tensor>,
    /// How much the states' weight follows the window's peak [H].
    pub slope: Option<Tensor>,
    /// Change of the q projection: A [rank, C], absent when it is of full rank.
    pub q_a: Option<Tensor>,
    /// B [H D, rank], or the whole change [H D, C].
    pub q_b: Option<Tensor>,
    /// Change of the o projection: A [rank, H D].
    pub o_a: Option<Tensor>,
    /// B [C, rank], or the whole change [C, H D].
    pub o_b: Option<Tensor>,
}

/// Logits of a state that has all the weight.
const FORCED: f32 = 60.0;

/// Half-lives in tokens at the start: history keeps, recency forgets. With a window, recency starts at a few windows:
/// inside it the exact part already knows better.
pub fn half_lives(form: &Form) -> [f64; 2] {
    [4096.0, if form.window > 0 { 4.0 * form.window as f64 } else { 32.0 }]
}

/// The gate logit of a half-life: sigmoid(logit)^(1 / scale) = 2^(-1 / h).
pub fn logit_of_half_life(h: f64, scale: f64) -> f64 {
    let log_d = -std::f64::consts::LN_2 / h * scale;
    -((-log_d).exp_m1()).ln()
}

impl DslaParams {
    /// Shapes by name, in a fixed order, for a form and heads; `hidden` is the model's width.
    pub fn shapes(form: &Form, n: Heads, hidden: usize) -> Vec<(&'static str, Vec<usize>)> {
        let e = match form.gate {
            Gate::Scalar => 1,
            Gate::Vector => form.features(n.head_dim),
        };
        let k = match form.gate_input {
            GateInput::Hidden => hidden,
            GateInput::Kv => 2 * n.head_dim,
        };
        let (h, g, d) = (n.heads, n.kv_heads, n.head_dim);
        let mut shapes = vec![];
        if form.feature_map != FeatureMap::None {
            shapes.push(("map_q", vec![h, d, d]));
            shapes.push(("map_k", vec![g, d, d]));
        }
        shapes.push(("gate_w", vec![2, g, e, k]));
        shapes.push(("gate_b", vec![2, g, e]));
        shapes.push(("gamma", vec![2, if form.gamma == Gamma::Head { h } else { 1 }]));
        if form.window > 0 {
            shapes.push(("mix", vec![h]));
        }
        if form.peak_slope {
            shapes.push(("slope", vec![h]));
        }
        let inner = h * d;
        match form.projections {
            Projections::Frozen => {}
            Projections::Lora { rank } => {
                shapes.push(("q_a", vec![rank, hidden]));
                shapes.push(("q_b", vec![inner, rank]));
                shapes.push(("o_a", vec![rank, inner]));
                shapes.push(("o_b", vec![hidden, rank]));
            }
            Projections::Full => {
                shapes.push(("q_b", vec![inner, hidden]));
                shapes.push(("o_b", vec![hidden, inner]));
            }
        }
        shapes
    }

    /// The start: identity maps, gates by half-life alone, equal weights, projections unchanged (B = 0; A spreads over
    /// its inputs by a fixed quasi-random pattern, so that the start needs no seed).
    pub fn init(form: &Form, n: Heads, hidden: usize) -> DslaParams {
        DslaParams::build(form, n, hidden, |name, shape| {
            let len: usize = shape.iter().product();
            let data = match name {
                "map_q" | "map_k" => {
                    let d = n.head_dim;
                    (0..len).map(|i| if i % (d * d) / d == i % d { 1.0 } else { 0.0 }).collect()
                }
                "gate_b" => {
                    let bias = half_lives(form).map(|h| logit_of_half_life(h, form.gate_scale as f64) as f32);
                    (0..len).map(|i| bias[i / (len / 2)]).collect()
                }
                // Far enough apart that the softmax is (1, 0) in f32, and its gradient nothing.
                "gamma" if form.gamma == Gamma::History => vec![FORCED, -FORCED],
                "gamma" if form.gamma == Gamma::Recency => vec![-FORCED, FORCED],
                "q_a" | "o_a" => {
                    // The golden ratio's multiples modulo 1: even over (-1, 1), no two rows alike.
                    let bound = (3.0 / shape[1] as f64).sqrt();
                    let at = |i: usize| (i as f64 * 0.618_033_988_749_894_9).fract() * 2.0 - 1.0;
                    (0..len).map(|i| (bound * at(i + 1)) as f32).collect()
                }
                _ => vec![0.0; len],
            };
            Ok::<_, std::convert::Infallible>(Tensor::from_f32(shape, data))
        })
        .unwrap_or_else(|e| match e {})
    }

    /// Build from a function name, shape -> tensor (f32, of that shape).
    pub fn build<E>(
        form: &Form,
        n: Heads,
        hidden: usize,
        mut make: impl FnMut(&'static str, &[usize]) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<DslaParams, E> {
        let shapes = DslaParams::shapes(form, n, hidden);
        let mut get = |name: &str| match shapes.iter().find(|(n, _)| *n == name) {
            Some((name, shape)) => make(name, shape).map(Some),
            None => Ok(None),
        };
        let always = "every form has gates and gamma";
        Ok(DslaParams {
            map_q: get("map_q")?,
            map_k: get("map_k")?,
            gate_w: get("gate_w")?.expect(always),
            gate_b: get("gate_b")?.expect(always),
            gamma: get("gamma")?.expect(always),
            mix: get("mix")?,
            slope: get("slope")?,
            q_a: get("q_a")?,
            q_b: get("q_b")?,
            o_a: get("o_a")?,
            o_b: get("o_b")?,
        })
    }

    /// All zero, of the same shapes, on the same device: fresh gradients or optimizer moments.
    ///
    /// Errors: no memory left on the device.
    pub fn zeros_like(&self) -> Result<DslaParams> {
        self.map(|t| Tensor::zeros_on(t.device(), t.shape(), t.dtype()))
    }

    /// A copy on another device.
    ///
    /// Errors: no such device, no memory left there.
    pub fn to_device(&self, device: Device) -> Result<DslaParams> {
        self.map(|t| t.to_device(device))
    }

    fn map(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<DslaParams> {
        let optional = |t: &Option<Tensor>| t.as_ref().map(&f).transpose();
        Ok(DslaParams {
            map_q: optional(&self.map_q)?,
            map_k: optional(&self.map_k)?,
            gate_w: f(&self.gate_w)?,
            gate_b: f(&self.gate_b)?,
            gamma: f(&self.gamma)?,
            mix: optional(&self.mix)?,
            slope: optional(&self.slope)?,
            q_a: optional(&self.q_a)?,
            q_b: optional(&self.q_b)?,
            o_a: optional(&self.o_a)?,
            o_b: optional(&self.o_b)?,
        })
    }

    /// Every tensor with its name, in the order of [`DslaParams::shapes`].
    pub fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        let mut all = vec![];
        all.extend(self.map_q.as_ref().map(|t| ("map_q", t)));
        all.extend(self.map_k.as_ref().map(|t| ("map_k", t)));
        all.extend([("gate_w", &self.gate_w), ("gate_b", &self.gate_b), ("gamma", &self.gamma)]);
        for (name, t) in [
            ("mix", &self.mix),
            ("slope", &self.slope),
            ("q_a", &self.q_a),
            ("q_b", &self.q_b),
            ("o_a", &self.o_a),
            ("o_b", &self.o_b),
        ] {
            all.extend(t.as_ref().map(|t| (name, t)));
        }
        all
    }

    /// Every tensor with its name, mutable, in the same order.
    pub fn tensors_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        let mut all = vec![];
        all.extend(self.map_q.as_mut().map(|t| ("map_q", t)));
        all.extend(self.map_k.as_mut().map(|t| ("map_k", t)));
        all.extend([("gate_w", &mut self.gate_w), ("gate_b", &mut self.gate_b), ("gamma", &mut self.gamma)]);
        for (name, t) in [
            ("mix", &mut self.mix),
            ("slope", &mut self.slope),
            ("q_a", &mut self.q_a),
            ("q_b", &mut self.q_b),
            ("o_a", &mut self.o_a),
            ("o_b", &mut self.o_b),
        ] {
            all.extend(t.as_mut().map(|t| (name, t)));
        }
        all
    }

    /// Number of parameters.
    pub fn count(&self) -> usize {
        self.tensors().iter().map(|(_, t)| t.len()).sum()
    }

    /// The two states' weights per query head [2, H]: softmax over the two. For parameters on the host.
    pub fn gamma_weights(&self, heads: usize) -> Tensor {
        let g = self.gamma.f32();
        let cols = g.len() / 2;
        let mut w = vec![0.0; 2 * heads];
        for h in 0..heads {
            let c = if cols == 1 { 0 } else { h };
            let first = 1.0 / (1.0 + (g[cols + c] - g[c]).exp());
            (w[h], w[heads + h]) = (first, 1.0 - first);
        }
        Tensor::from_f32([2, heads], w)
    }

    /// Gradient of the logits from that of the weights [2, H]: added to `self.gamma`. A few numbers: computed on the
    /// host.
    pub(crate) fn add_gamma_gradient(&mut self, weights: &Tensor, d_weights: &Tensor) -> Result<()> {
        let (w, dw) = (weights.to_device(Device::Cpu)?, d_weights.to_device(Device::Cpu)?);
        let (w, dw) = (w.f32(), dw.f32());
        let heads = dw.len() / 2;
        let cols = self.gamma.len() / 2;
        let mut g = vec![0.0; 2 * cols];
        for h in 0..heads {
            let c = if cols == 1 { 0 } else { h };
            let d = w[h] * w[heads + h] * (dw[h] - dw[heads + h]);
            g[c] += d;
            g[cols + c] -= d;
        }
        let add = Tensor::from_f32(self.gamma.shape(), g).to_device(self.gamma.device())?;
        axpby::forward(1.0, add.view(), 1.0, self.gamma.view_mut())
    }
}
