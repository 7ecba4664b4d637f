//! One load per key however many wait, and one statement for many keys.
//!
//! While a batch is under way the next one gathers, so that batches grow with the load and a lone miss waits for
//! nobody. In a crowd the next batch waits a little for the others, so that a quick database does not see many small
//! ones. Both the number of waiting keys and the wait are bounded.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

/// No answer: too many are waiting, or it took too long, or the load failed. Never a statement about the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

/// Bounds of one [`Batcher`].
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Keys in one batch.
    pub keys: usize,
    /// Batches under way at once: the share of the pool.
    pub at_once: usize,
    /// Keys that may wait; more are refused at once.
    pub waiting: usize,
    /// How long a caller waits.
    pub wait: Duration,
    /// After a batch of [`CROWD`] keys or more, how long the next one gathers, unless it is full of [`ENOUGH`] before.
    pub gather: Duration,
}

/// Keys in one batch from which on it was a crowd that came.
pub const CROWD: usize = 16;

/// Keys for which no batch waits any longer.
pub const ENOUGH: usize = 256;

/// Gathers loads. `V` is the answer for one key; a key that the load leaves out gets [`NoAnswer`].
pub struct Batcher<K, V> {
    shared: Arc<Shared<K, V>>,
}

struct Shared<K, V> {
    state: Mutex<State<K, V>>,
    wake: Notify,
    limits: BatchLimits,
}

struct State<K, V> {
    /// Everybody who waits, by key, whether its batch has started or not.
    waiters: HashMap<K, Vec<oneshot::Sender<V>>>,
    /// Keys whose batch has not started.
    queue: Vec<K>,
    closed: bool,
}

impl<K, V> Clone for Batcher<K, V> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K: Copy + Eq + Hash + Send + 'static, V: Clone + Send + 'static> Batcher<K, V> {
    /// A batcher and its workers, which `spawn` starts; they end when [`close`](Self::close) is called.
    pub fn new<F, Fut>(limits: BatchLimits, load: F) -> (Self, Vec<impl Future<Output = ()> + Send + 'static>)
    where
        F: Fn(Vec<K>, Answers<K, V>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let state = State { waiters: HashMap::new(), queue: Vec::new(), closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Notify::new(), limits });
        let workers = (0..limits.at_once).map(|_| work(shared.clone(), load.clone())).collect();
        (Self { shared }, workers)
    }

    /// Loads one key together with whatever else is asked for at the same time.
    ///
    /// # Errors
    /// [`NoAnswer`], within the limit of [`BatchLimits::wait`].
    pub async fn load(&self, key: K) -> Result<V, NoAnswer> {
        let answer = self.shared.enqueue(key)?;
        match tokio::time::timeout(self.shared.limits.wait, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) | Err(_) => Err(NoAnswer),
        }
    }

    /// Ends the workers; whoever waits gets [`NoAnswer`].
    pub fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.queue.clear();
        state.waiters.clear();
        drop(state);
        self.shared.wake.notify_waiters();
        self.shared.wake.notify_one();
    }
}

/// Where a batch puts its answers, one by one as they become known. Keys unanswered at the end get [`NoAnswer`].
pub struct Answers<K: Copy + Eq + Hash, V: Clone> {
    shared: Arc<Shared<K, V>>,
    unanswered: HashSet<K>,
}

impl<K: Copy + Eq + Hash, V: Clone> Answers<K, V> {
    /// Answers everybody who waits for `key`; only the first answer to a key counts.
    pub fn give(&mut self, key: K, value: V) {
        if !self.unanswered.remove(&key) {
            return;
        }
        let waiters = self.shared.lock().waiters.remove(&key).unwrap_or_default();
        for waiter in waiters {
            // Whoever stopped waiting has dropped the other end.
            let _ = waiter.send(value.clone());
        }
    }
}

impl<K: Copy + Eq + Hash, V: Clone> Drop for Answers<K, V> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        for key in &self.unanswered {
            state.waiters.remove(key);
        }
    }
}

impl<K: Copy + Eq + Hash, V> Shared<K, V> {
    fn lock(&self) -> std::sync::MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, key: K) -> Result<oneshot::Receiver<V>, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(NoAnswer);
        }
        let full = state.waiters.len() >= self.limits.waiting;
        if let Some(waiters) = state.waiters.get_mut(&key) {
            waiters.push(sender);
        } else if full {
            return Err(NoAnswer);
        } else {
            state.waiters.insert(key, vec![sender]);
            state.queue.push(key);
        }
        drop(state);
        self.wake.notify_one();
        Ok(receiver)
    }

    /// The next batch; `None` when there is nothing to do.
    fn take(&self) -> Option<Vec<K>> {
        let mut state = self.lock();
        if state.queue.is_empty() {
            return None;
        }
        let count = state.queue.len().min(self.limits.keys);
        let rest = state.queue.split_off(count);
        Some(std::mem::replace(&mut state.queue, rest))
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits for a crowd's next batch to be worth a statement.
    async fn gather(&self) {
        let enough = async {
            while !self.is_closed() && self.lock().queue.len() < ENOUGH.min(self.limits.keys) {
                self.wake.notified().await;
            }
        };
        let _ = tokio::time::timeout(self.limits.gather, enough).await;
    }
}

async fn work<K, V, F, Fut>(shared: Arc<Shared<K, V>>, load: F)
where
    K: Copy + Eq + Hash + Send + 'static,
    V: Clone + Send + 'static,
    F: Fn(Vec<K>, Answers<K, V>) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut crowd = false;
    while !shared.is_closed() {
        if std::mem::take(&mut crowd) && !shared.limits.gather.is_zero() {
            shared.gather().await;
        }
        let Some(keys) = shared.take() else {
            shared.wake.notified().await;
            continue;
        };
        crowd = keys.len() >= CROWD;
        // Another worker may take what did not fit.
        shared.wake.notify_one();
        let answers = Answers { shared: shared.clone(), unanswered: keys.iter().copied().collect() };
        load(keys, answers).await;
    }
    shared.wake.notify_one();
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LIMITS: BatchLimits =
        BatchLimits { keys: 500, at_once: 1, waiting: 100, wait: Duration::from_secs(10), gather: Duration::ZERO };

    #[tokio::test]
    async fn a_thousand_callers_of_one_key_cost_one_load() {
        let loads = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Notify::new());
        let (batcher, workers) = Batcher::new(LIMITS, {
            let (loads, gate) = (loads.clone(), gate.clone());
            move |keys: Vec<u32>, mut answers: Answers<u32, u32>| {
                let (loads, gate) = (loads.clone(), gate.clone());
                async move {
                    loads.fetch_add(1, Ordering::SeqCst);
                    gate.notified().await;
                    keys.iter().for_each(|&key| answers.give(key, key * 2));
                }
            }
        });
        workers.into_iter().for_each(|worker| drop(tokio::spawn(worker)));
        let callers: Vec<_> = (0..1000)
            .map(|_| {
                let batcher = batcher.clone();
                tokio::spawn(async move { batcher.load(7).await })
            })
            .collect();
        while batcher.shared.lock().waiters.get(&7).map_or(0, Vec::len) < 1000 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        for caller in callers {
            assert_eq!(caller.await.expect("no panic"), Ok(14));
        }
        assert_eq!(loads.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn keys_that_come_during_a_batch_share_the_next() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(Notify::new());
        let (batcher, workers) = Batcher::new(LIMITS, {
            let (sizes, gate) = (sizes.clone(), gate.clone());
            move |keys: Vec<u32>, mut answers: Answers<u32, u32>| {
                let (sizes, gate) = (sizes.clone(), gate.clone());
                async move {
                    sizes.lock().expect("not poisoned").push(keys.len());
                    gate.notified().await;
                    keys.iter().for_each(|&key| answers.give(key, key));
                }
            }
        });
        workers.into_iter().for_each(|worker| drop(tokio::spawn(worker)));
        let first = tokio::spawn({
            let batcher = batcher.clone();
            async move { batcher.load(0).await }
        });
        while sizes.lock().expect("not poisoned").is_empty() {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (1..=50)
            .map(|key| {
                let batcher = batcher.clone();
                tokio::spawn(async move { batcher.load(key).await })
            })
            .collect();
        while batcher.shared.lock().queue.len() < 50 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        gate.notify_one();
        first.await.expect("no panic").expect("answered");
        while sizes.lock().expect("not poisoned").len() < 2 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        for other in others {
            other.await.expect("no panic").expect("answered");
        }
        assert_eq!(*sizes.lock().expect("not poisoned"), [1, 50]);
    }

    /// What comes one by one after a crowd is still one batch.
    #[tokio::test]
    async fn a_crowd_is_waited_for_and_a_lone_miss_is_not() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let limits = BatchLimits { keys: CROWD + 4, gather: Duration::from_secs(3600), ..LIMITS };
        let (batcher, workers) = Batcher::new(limits, {
            let sizes = sizes.clone();
            move |keys: Vec<usize>, mut answers: Answers<usize, usize>| {
                sizes.lock().expect("not poisoned").push(keys.len());
                async move { keys.iter().for_each(|&key| answers.give(key, key)) }
            }
        });
        let ask = |key| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.load(key).await })
        };
        workers.into_iter().for_each(|worker| drop(tokio::spawn(worker)));
        for lone in 0..3 {
            ask(lone).await.expect("no panic").expect("answered");
        }
        let mut asked: Vec<_> = (0..CROWD).map(ask).collect();
        for first in asked.drain(..) {
            first.await.expect("no panic").expect("answered");
        }
        for key in 0..limits.keys {
            asked.push(ask(key));
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
        for caller in asked {
            caller.await.expect("no panic").expect("answered");
        }
        assert_eq!(*sizes.lock().expect("not poisoned"), [1, 1, 1, CROWD, limits.keys]);
    }

    #[tokio::test]
    async fn a_failed_load_is_no_answer_and_a_full_house_refuses_at_once() {
        let limits = BatchLimits { waiting: 1, ..LIMITS };
        let gate = Arc::new(Notify::new());
        let (batcher, workers) = Batcher::new(limits, {
            let gate = gate.clone();
            move |_: Vec<u32>, answers: Answers<u32, u32>| {
                let gate = gate.clone();
                async move {
                    gate.notified().await;
                    drop(answers);
                }
            }
        });
        workers.into_iter().for_each(|worker| drop(tokio::spawn(worker)));
        let first = tokio::spawn({
            let batcher = batcher.clone();
            async move { batcher.load(1).await }
        });
        while batcher.shared.lock().waiters.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(batcher.load(2).await, Err(NoAnswer));
        gate.notify_one();
        assert_eq!(first.await.expect("no panic"), Err(NoAnswer));
    }
}
