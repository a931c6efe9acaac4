//! The engine's handle: checks requests, hands them to the engine thread, ends it.

use crate::adapt::{Controller, Ladder, Policy};
use crate::backend::Backend;
use crate::events;
use crate::footprint::Footprint;
use crate::latency::Latency;
use crate::request::{Facts, Request, SamplingParams};
use crate::running::Submission;
use crate::stats::{Stats, StepReport};
use crate::worker::Worker;
use crate::{Error, Generation, Result};
use dsla_model::{Message, Model};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

/// Reports that wait for a slow subscriber; further ones are dropped.
const REPORTS_HELD: usize = 4096;

/// How an engine runs. The default serves the teacher as it is.
#[derive(Debug)]
pub struct EngineConfig {
    /// Who decides how many layers new sequences start converted.
    pub policy: Policy,
    /// Sequences running at once, 1 or more.
    pub max_running: usize,
    /// Prompt tokens per step, 1 or more: bounds how long a long prompt holds up the others. On two CPU cores 128 cost a
    /// prompt 2% against 512 and let the others have four times as many tokens meanwhile; a GPU wants more.
    pub prefill_chunk: usize,
    /// Bytes that keys, values and states may take. `None`: no bound. When running sequences outgrow it, the prefix
    /// cache gives way, then the youngest: it is computed again later, and its reader notices nothing but a delay.
    pub kv_budget: Option<usize>,
    /// Bytes of it that the prefix cache may take: snapshots of sequences, for requests whose prompts begin the same.
    /// 0 switches it off.
    pub prefix_cache: usize,
    /// Tokens of a prompt between such snapshots, 1 or more, rounded up to whole chunks; there are others at its end and
    /// where prompts part.
    pub snapshot_every: usize,
    /// Requests that may wait, 1 or more.
    pub max_queue: usize,
    /// The most loss that conversion may cost: the mean KL divergence from the teacher in nats per token, as the
    /// adapter measured it. Prefixes with more, and those beyond the last measured one, are never used. `None`: no
    /// guard.
    pub max_quality_loss: Option<f64>,
    /// Fold running sequences up to a risen target; otherwise only new ones start there.
    pub fold_running: bool,
    /// Layers folded between two steps at most, 1 or more: bounds how long folding holds up a step.
    pub max_folds_per_step: usize,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            policy: Policy::default(),
            max_running: 16,
            prefill_chunk: 128,
            kv_budget: None,
            prefix_cache: 512_000_000,
            snapshot_every: 512,
            max_queue: 256,
            max_quality_loss: None,
            fold_running: true,
            max_folds_per_step: 4,
        }
    }
}

impl EngineConfig {
    fn check(&self) -> Result<()> {
        let counts = [
            ("max_running", self.max_running),
            ("prefill_chunk", self.prefill_chunk),
            ("snapshot_every", self.snapshot_every),
            ("kv_budget", self.kv_budget.unwrap_or(1)),
            ("max_queue", self.max_queue),
            ("max_folds_per_step", self.max_folds_per_step),
        ];
        if let Some((field, _)) = counts.into_iter().find(|(_, n)| *n == 0) {
            return Err(Error::config(field, 0, "1 or more"));
        }
        match self.max_quality_loss {
            Some(loss) if loss.is_nan() || loss < 0.0 => {
                Err(Error::config("max_quality_loss", loss, "a number, 0 or more"))
            }
            _ => Ok(()),
        }
    }
}

/// A running engine. Clones are handles to the same one; when the last of them is dropped, what still runs is
/// cancelled and the engine thread ends.
#[derive(Clone, Debug)]
pub struct Engine {
    core: Arc<Core>,
    model: Model,
}

impl Engine {
    /// Starts the engine thread.
    ///
    /// Errors: a configuration that makes no sense; a fixed rate beyond what the adapter has or the quality guard
    /// allows; no thread to be had.
    pub fn new(model: Model, config: EngineConfig) -> Result<Engine> {
        Engine::start(model.clone(), model, config)
    }

    /// An engine whose steps fail on demand: `fault` sees the tokens that a step feeds to one sequence.
    #[cfg(feature = "testing")]
    pub fn with_faults(
        model: Model,
        config: EngineConfig,
        fault: impl Fn(&[u32]) -> Option<crate::testing::Fault> + Send + 'static,
    ) -> Result<Engine> {
        Engine::start(crate::testing::Faulty { model: model.clone(), fault }, model, config)
    }

    fn start<B: Backend>(backend: B, model: Model, config: EngineConfig) -> Result<Engine> {
        config.check()?;
        let (order, quality) = match model.adapter() {
            Some(a) => (a.order.len(), a.quality.iter().map(|q| (q.converted, q.kl)).collect()),
            None => (0, Vec::new()),
        };
        let shape = model.config();
        let ladder = Ladder::new(shape.num_layers, order, &quality, config.max_quality_loss);
        let facts = Facts {
            vocab: shape.vocab_size,
            context: model.table().positions(),
            text: model.tokenizer().is_ok(),
            ladder,
            policy: (0, 0),
            footprint: Footprint::of(&model),
            budget: config.kv_budget,
        };
        let core = Core::start(backend, facts, config)?;
        Ok(Engine { core: Arc::new(core), model })
    }

    /// Queues a request.
    ///
    /// Errors: a request that could never be served, a full queue, an engine that was shut down.
    pub fn submit(&self, request: Request) -> Result<Generation> {
        self.core.submit(request)
    }

    /// Continues a text. Tokenised on the calling thread, with the special tokens the model wants around a text.
    pub fn complete(&self, text: &str, params: SamplingParams) -> Result<Generation> {
        let prompt = self.model.tokenizer()?.encode(text, true)?;
        self.submit(Request { prompt, params })
    }

    /// Answers a conversation. Rendered by the model's chat template and tokenised on the calling thread.
    pub fn chat(&self, messages: &[Message], params: SamplingParams) -> Result<Generation> {
        let text = self.model.chat_template()?.render(messages, true, None)?;
        // The template has written the begin token already.
        let prompt = self.model.tokenizer()?.encode(&text, false)?;
        self.submit(Request { prompt, params })
    }

    /// The most tokens that a request with a prompt of `prompt_tokens` can ask for at this pinned rate or the policy's:
    /// what context and byte budget leave, 0 when nothing.
    pub fn room(&self, prompt_tokens: usize, rate: Option<f64>) -> usize {
        self.core.shared.facts.room(prompt_tokens, rate)
    }

    /// The model it serves.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What the engine is doing.
    pub fn stats(&self) -> Stats {
        self.core.shared.stats()
    }

    /// How long requests wait and how fast they run.
    pub fn latency(&self) -> Latency {
        let shared = &self.core.shared;
        let mut latency = shared.latency().clone();
        latency.forget(shared.now());
        latency
    }

    /// The policy and its settings, for people.
    pub fn policy(&self) -> &str {
        &self.core.shared.policy
    }

    /// A report of every step from now on. A receiver that falls thousands of reports behind misses some.
    pub fn subscribe(&self) -> Receiver<StepReport> {
        self.core.shared.subscribe()
    }

    /// Whether it refuses new requests: it was shut down, or its thread has ended.
    pub fn is_stopping(&self) -> bool {
        let inbox = lock(&self.core.shared.inbox);
        inbox.stopped || inbox.closing.is_some()
    }

    /// Refuses new requests, waits up to `deadline` for those queued and running, cancels what is left, and ends the
    /// engine thread; it can overrun by one step. Calling it again is fine; the earliest deadline counts. On the
    /// engine thread (in a policy) it only gives notice.
    pub fn shutdown(&self, deadline: Duration) {
        self.core.shutdown(deadline);
    }
}

/// The engine without a model: what tests drive with a model of their own.
#[derive(Debug)]
pub(crate) struct Core {
    pub shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    thread_id: ThreadId,
}

impl Core {
    pub fn start<B: Backend>(backend: B, mut facts: Facts, mut config: EngineConfig) -> Result<Core> {
        let policy = format!("{:?}", config.policy);
        let controller = Controller::new(std::mem::take(&mut config.policy), &facts.ladder)?;
        // A controller only rises from where it starts, or stays there.
        facts.policy = (controller.target(), controller.max());
        let shared = Arc::new(Shared {
            stats: Mutex::new(Arc::new(Stats {
                kv_budget: facts.budget,
                layers: facts.ladder.layers(),
                converted_target: controller.target(),
                converted_max: controller.max(),
                max_running: config.max_running,
                max_queue: config.max_queue,
                ..Stats::default()
            })),
            facts,
            policy,
            started: Instant::now(),
            max_queue: config.max_queue,
            latency: Mutex::default(),
            inbox: Mutex::default(),
            wake: Condvar::new(),
            subscribers: Mutex::default(),
        });
        let worker = Worker::new(backend, Arc::clone(&shared), controller, &config);
        let end = EndOfThread(Arc::clone(&shared));
        let body = move || {
            let _end = end;
            worker.run();
        };
        let thread = std::thread::Builder::new().name("dsla-engine".into()).spawn(body);
        let thread = thread.map_err(|e| Error::Thread { message: e.to_string() })?;
        let thread_id = thread.thread().id();
        Ok(Core { shared, thread: Mutex::new(Some(thread)), thread_id })
    }

    pub fn submit(&self, request: Request) -> Result<Generation> {
        let shared = &self.shared;
        let pinned = shared.facts.check(&request)?;
        let Request { prompt, params } = request;
        let mut inbox = lock(&shared.inbox);
        if inbox.stopped && inbox.closing.is_none() {
            return Err(Error::Stopped);
        }
        if inbox.closing.is_some() {
            return Err(Error::ShuttingDown);
        }
        let queued = inbox.queued + inbox.arrived.len();
        if queued >= shared.max_queue {
            return Err(Error::QueueFull { queued, max: shared.max_queue });
        }
        let id = inbox.next_id;
        inbox.next_id += 1;
        let span = tracing::info_span!(
            "request",
            id,
            prompt_tokens = prompt.len(),
            max_tokens = params.max_tokens,
            rate = params.rate
        );
        let (sender, events) = events::channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let prompt_tokens = prompt.len();
        let flag = Arc::clone(&cancelled);
        let submitted = shared.now();
        inbox.arrived.push(Submission {
            id,
            prompt,
            params,
            pinned,
            events: sender,
            cancelled: flag,
            submitted,
            span,
        });
        drop(inbox);
        shared.wake.notify_one();
        Ok(Generation { id, prompt_tokens, events, cancelled, shared: Arc::clone(shared), done: false })
    }

    pub fn shutdown(&self, deadline: Duration) {
        // A deadline beyond what the clock can say is none.
        let until = Instant::now().checked_add(deadline);
        let mut inbox = lock(&self.shared.inbox);
        inbox.closing = Some(match inbox.closing {
            Some(Some(before)) => Some(until.map_or(before, |until| until.min(before))),
            Some(None) | None => until,
        });
        drop(inbox);
        self.shared.wake.notify_one();
        if std::thread::current().id() == self.thread_id {
            return;
        }
        // Held while joining: a second call returns when the thread has ended, too.
        if let Some(Err(_)) = lock(&self.thread).take().map(JoinHandle::join) {
            tracing::error!("the engine thread panicked");
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

/// What handles, generations and the engine thread share. Its locks are held for a few instructions only.
#[derive(Debug)]
pub(crate) struct Shared {
    pub facts: Facts,
    /// The policy, for people.
    policy: String,
    /// Zero of the engine's clock.
    started: Instant,
    latency: Mutex<Latency>,
    max_queue: usize,
    inbox: Mutex<Inbox>,
    wake: Condvar,
    stats: Mutex<Arc<Stats>>,
    subscribers: Mutex<Vec<SyncSender<StepReport>>>,
}

#[derive(Default)]
struct Inbox {
    /// Checked, not seen by the engine thread yet.
    arrived: Vec<Submission>,
    /// Waiting on the engine thread.
    queued: usize,
    next_id: u64,
    /// Something else to look at: a cancelled request.
    poked: bool,
    /// Shutting down, until then at most.
    closing: Option<Option<Instant>>,
    /// The engine thread has ended.
    stopped: bool,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut s = f.debug_struct("Inbox");
        s.field("arrived", &self.arrived.len()).field("queued", &self.queued).field("closing", &self.closing);
        s.field("stopped", &self.stopped).finish_non_exhaustive()
    }
}

/// What the engine thread finds in its inbox.
pub(crate) struct Orders {
    pub arrived: Vec<Submission>,
    pub closing: bool,
    /// The shutdown's deadline has passed.
    pub stop_now: bool,
}

impl Shared {
    /// Empties the inbox. An idle engine thread waits here for something to do, at most for `wait` if there is one.
    pub fn receive(&self, idle: bool, wait: Option<Duration>) -> Orders {
        let until = wait.and_then(|wait| Instant::now().checked_add(wait));
        let mut inbox = lock(&self.inbox);
        while idle && inbox.arrived.is_empty() && inbox.closing.is_none() && !inbox.poked {
            inbox = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.wake.wait(inbox).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => self.wake.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        inbox.poked = false;
        let arrived = std::mem::take(&mut inbox.arrived);
        inbox.queued += arrived.len();
        let stop_now = inbox.closing.flatten().is_some_and(|until| Instant::now() >= until);
        Orders { arrived, closing: inbox.closing.is_some(), stop_now }
    }

    /// Time since the engine started.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn latency(&self) -> MutexGuard<'_, Latency> {
        lock(&self.latency)
    }

    /// Has the engine thread look at its requests.
    pub fn poke(&self) {
        lock(&self.inbox).poked = true;
        self.wake.notify_one();
    }

    /// How many requests wait on the engine thread.
    pub fn set_queued(&self, queued: usize) {
        lock(&self.inbox).queued = queued;
    }

    pub fn publish(&self, stats: Stats) {
        *lock(&self.stats) = Arc::new(stats);
    }

    pub fn stats(&self) -> Stats {
        let stats = Arc::clone(&lock(&self.stats));
        let mut stats = Stats::clone(&stats);
        let inbox = lock(&self.inbox);
        stats.queued = inbox.queued + inbox.arrived.len();
        stats
    }

    pub fn subscribe(&self) -> Receiver<StepReport> {
        let (sender, receiver) = sync_channel(REPORTS_HELD);
        if !lock(&self.inbox).stopped {
            lock(&self.subscribers).push(sender);
        }
        receiver
    }

    pub fn watched(&self) -> bool {
        !lock(&self.subscribers).is_empty()
    }

    pub fn report(&self, report: StepReport) {
        lock(&self.subscribers)
            .retain(|s| !matches!(s.try_send(report.clone()), Err(TrySendError::Disconnected(_))));
    }
}

/// However the engine thread ends, nobody is left waiting for it.
struct EndOfThread(Arc<Shared>);

impl Drop for EndOfThread {
    fn drop(&mut self) {
        let mut inbox = lock(&self.0.inbox);
        inbox.stopped = true;
        inbox.queued = 0;
        let arrived = std::mem::take(&mut inbox.arrived);
        drop(inbox);
        lock(&self.0.subscribers).clear();
        // A request that slipped in after the last look: its receiver sees the sender go.
        drop(arrived);
    }
}

/// A panic elsewhere leaves counters and queues as they are: still true.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
