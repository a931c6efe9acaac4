//! The model that fails on demand.

use super::*;

#[derive(Clone)]
pub struct Fake {
    pub live: Arc<AtomicUsize>,
    pub calls: Arc<AtomicUsize>,
    pub pause: Duration,
    pub foldable: bool,
    pub chained: bool,
    pub grain: Option<usize>,
    pub eos: Vec<u32>,
}

pub struct Seq {
    pub history: Vec<u32>,
    pub digest: u64,
    pub converted: usize,
    pub live: Arc<AtomicUsize>,
}

impl Seq {
    /// What one token changes: also one that comes alone, as decode kernels round otherwise.
    fn chain(&mut self, x: u64) {
        self.digest = (self.digest ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

impl Drop for Seq {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Backend for Fake {
    type Sequence = Seq;

    fn start(&self, converted: usize) -> Result<Seq> {
        self.live.fetch_add(1, Ordering::SeqCst);
        Ok(Seq { history: vec![], digest: 0, converted, live: Arc::clone(&self.live) })
    }

    fn forward(&self, feeds: &mut [Feed<'_, Seq>]) -> Result<Tensor> {
        std::thread::sleep(self.pause);
        self.calls.fetch_add(1, Ordering::SeqCst);
        for feed in feeds.iter_mut() {
            assert!(!feed.tokens.contains(&PANICS), "as ordered");
            if feed.tokens.contains(&FAILS_LATE) {
                feed.seq.history.push(0);
            }
            if feed.tokens.iter().any(|t| [FAILS, FAILS_LATE].contains(t)) {
                return Err(Error::internal("fake", "a poisoned token", "none"));
            }
        }
        let mut logits = vec![];
        for feed in feeds.iter_mut() {
            feed.seq.history.extend_from_slice(feed.tokens);
            for &token in feed.tokens {
                let (converted, alone) = (feed.seq.converted as u64, u64::from(feed.tokens.len() == 1));
                feed.seq.chain(1 + u64::from(token) + 1000 * (2 * converted + alone));
            }
            if feed.logits != Want::None {
                let mut row = [0.0; VOCAB];
                let last = *feed.seq.history.last().expect("fed") as usize;
                let next = if self.chained { (feed.seq.digest >> 20) as usize } else { last + 1 };
                row[next % 30] = if feed.seq.history.contains(&NAN) { f32::NAN } else { 9.0 };
                logits.extend(row);
            }
        }
        Ok(Tensor::from_f32([logits.len() / VOCAB, VOCAB], logits))
    }

    fn fold(&self, seq: &mut Seq) -> Result<()> {
        seq.converted += 1;
        seq.chain(0);
        Ok(())
    }

    fn foldable(&self) -> bool {
        self.foldable
    }

    fn converted(&self, seq: &Seq) -> usize {
        seq.converted
    }

    fn len(&self, seq: &Seq) -> usize {
        seq.history.len()
    }

    fn held(&self, seq: &Seq) -> Held {
        Held { kv: (LAYERS - seq.converted) * TOKEN * seq.history.len(), state: seq.converted * STATE }
    }

    fn snapshot(&self, seq: &Seq) -> Result<Seq> {
        let mut copy = self.start(seq.converted)?;
        (copy.history, copy.digest) = (seq.history.clone(), seq.digest);
        Ok(copy)
    }

    fn weight(&self, seq: &Seq) -> Weight {
        let held = self.held(seq);
        Weight { own: held.kv + held.state, pages: vec![] }
    }

    fn grain(&self) -> Option<usize> {
        self.grain
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        None
    }

    fn eos(&self) -> &[u32] {
        &self.eos
    }
}

pub fn fake(pause_ms: u64) -> Fake {
    let pause = Duration::from_millis(pause_ms);
    Fake {
        live: Arc::default(),
        calls: Arc::default(),
        pause,
        foldable: true,
        chained: false,
        grain: None,
        eos: vec![],
    }
}
