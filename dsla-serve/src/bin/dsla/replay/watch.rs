//! What our own server holds and serves while it is under load: polled from `/v1/dsla`. Other servers have no such thing.

use super::client::Target;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(200);

/// The most that was seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub kv_bytes: u64,
    pub state_bytes: u64,
    /// Of their sum, which need not peak where they do.
    pub bytes: u64,
    pub layers: u64,
    pub folds: u64,
    /// By converted layers: the divergence that the adapter measured, nats per token.
    pub kl: Vec<Option<f64>>,
}

impl Seen {
    fn take_in(&mut self, answer: &Value) {
        let number = |at: &str| answer.pointer(at).and_then(Value::as_u64).unwrap_or(0);
        let (kv, state) = (number("/memory/kv_bytes"), number("/memory/state_bytes"));
        self.kv_bytes = self.kv_bytes.max(kv);
        self.state_bytes = self.state_bytes.max(state);
        self.bytes = self.bytes.max(kv + state);
        self.layers = self.layers.max(number("/target/layers"));
        self.folds = self.folds.max(number("/counters/folds"));
        if self.kl.is_empty() {
            let quality = answer["quality"].as_array();
            self.kl = quality.into_iter().flatten().map(|q| q["kl"].as_f64()).collect();
        }
    }

    /// What a request paid that was answered at this share of converted layers; the teacher costs nothing.
    pub fn kl_at(&self, rate: f64) -> Option<f64> {
        let layers = (rate * (self.kl.len().checked_sub(1)?) as f64).round() as usize;
        if layers == 0 { Some(0.0) } else { self.kl.get(layers).copied().flatten() }
    }

    pub fn json(&self) -> Value {
        json!({
            "peak_kv_bytes": self.kv_bytes, "peak_state_bytes": self.state_bytes, "peak_bytes": self.bytes,
            "most_layers": self.layers, "folds": self.folds,
        })
    }
}

/// A task that looks until it is dropped.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// `None` where the server is not ours.
    pub async fn start(target: &Target) -> Option<Watch> {
        let first = target.json("/v1/dsla", None).await.ok()?;
        let mut start = Seen::default();
        start.take_in(&first);
        let seen = Arc::new(Mutex::new(start));
        let (target, into) = (target.clone(), seen.clone());
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                // (A look that fails is one look less.)
                if let Ok(answer) = target.json("/v1/dsla", None).await {
                    into.lock().unwrap_or_else(PoisonError::into_inner).take_in(&answer);
                }
            }
        });
        Some(Watch { seen, task })
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_and_prices() {
        let look = |kv: u64, state: u64, layers: u64| {
            json!({
                "memory": {"kv_bytes": kv, "state_bytes": state}, "target": {"layers": layers},
                "counters": {"folds": layers},
                "quality": [null, {"kl": 0.1}, {"kl": 0.2}, null, null],
            })
        };
        let mut seen = Seen::default();
        [look(10, 0, 0), look(4, 5, 2), look(0, 8, 1)].iter().for_each(|l| seen.take_in(l));
        assert_eq!((seen.kv_bytes, seen.state_bytes, seen.bytes, seen.layers, seen.folds), (10, 8, 10, 2, 2));
        let kl = [0.0, 0.25, 0.5, 1.0].map(|rate| seen.kl_at(rate));
        assert_eq!(kl, [Some(0.0), Some(0.1), Some(0.2), None]);
        assert_eq!(Seen::default().kl_at(0.0), None);
    }
}
