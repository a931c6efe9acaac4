//! The way of a request's events from the engine thread to whoever waits for them: a thread that blocks, or a task
//! with a waker. Unbounded: a request makes `max_tokens + 1` events at most, and the engine never waits for a reader.

use crate::{Event, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What is said when the sender is gone and nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

#[derive(Default)]
struct State {
    queue: VecDeque<Result<Event>>,
    /// The task that polled last and found nothing.
    waker: Option<Waker>,
    sender_gone: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then wakes whoever waits, with the lock released: a waker may run anything.
    fn change(&self, how: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        how(&mut state);
        let waker = state.waker.take();
        drop(state);
        self.arrived.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The engine thread's end.
pub(crate) struct EventSender(Arc<Shared>);

/// The request's end.
pub(crate) struct EventReceiver(Arc<Shared>);

pub(crate) fn channel() -> (EventSender, EventReceiver) {
    let shared = Arc::new(Shared::default());
    (EventSender(Arc::clone(&shared)), EventReceiver(shared))
}

impl EventSender {
    pub fn send(&self, event: Result<Event>) {
        self.0.change(|state| state.queue.push_back(event));
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        self.0.change(|state| state.sender_gone = true);
    }
}

impl EventReceiver {
    /// Blocks until there is an event.
    pub fn recv(&self) -> std::result::Result<Result<Event>, Gone> {
        let mut state = self.0.lock();
        loop {
            if let Some(event) = state.queue.pop_front() {
                return Ok(event);
            }
            if state.sender_gone {
                return Err(Gone);
            }
            state = self.0.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<std::result::Result<Result<Event>, Gone>> {
        let mut state = self.0.lock();
        if let Some(event) = state.queue.pop_front() {
            return Poll::Ready(Ok(event));
        }
        if state.sender_gone {
            return Poll::Ready(Err(Gone));
        }
        if !state.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.lock().queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_task_is_woken_once_per_wait_and_at_the_end() {
        let (sender, receiver) = channel();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        assert!(receiver.poll(&mut cx).is_pending() && receiver.poll(&mut cx).is_pending());
        sender.send(Err(Error::Stopped));
        sender.send(Err(Error::Stopped));
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "nobody waits for the second");
        assert!(matches!(receiver.poll(&mut cx), Poll::Ready(Ok(_))));
        assert!(matches!(receiver.recv(), Ok(Err(Error::Stopped))));
        assert!(receiver.poll(&mut cx).is_pending());
        drop(sender);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        assert!(matches!(receiver.poll(&mut cx), Poll::Ready(Err(Gone))));
        assert!(matches!(receiver.recv(), Err(Gone)));
    }

    #[test]
    fn a_blocked_thread_hears_of_events_and_of_the_end() {
        let (sender, receiver) = channel();
        let reader = std::thread::spawn(move || {
            let first = matches!(receiver.recv(), Ok(Err(Error::Stopped)));
            (first, matches!(receiver.recv(), Err(Gone)))
        });
        sender.send(Err(Error::Stopped));
        drop(sender);
        assert_eq!(reader.join().expect("no panic"), (true, true));
    }
}
