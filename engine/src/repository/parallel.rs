//! Several requests at once, where each takes long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Store;

/// So many requests are under way at once.
pub(crate) const AT_ONCE: usize = 16;

/// Returns how many requests are worth being under way at once.
pub(crate) fn at_once(store: &Store) -> usize {
    if store.storage().capabilities().is_remote { AT_ONCE } else { 1 }
}

/// Does something for each item, several at once on a remote medium. The results come in the order of the items.
pub(crate) fn each<T: Sync, R: Send>(store: &Store, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = at_once(store).min(items.len());
    if threads < 2 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(items.len()));
    let work_on = || {
        while let Some((at, item)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, items.get(at)?)))
        {
            let result = work(item);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
    };
    std::thread::scope(|scope| {
        // where the system has no thread to spare, fewer will do; this one works too
        for _ in 1..threads {
            let _ = std::thread::Builder::new().spawn_scoped(scope, work_on);
        }
        work_on();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
