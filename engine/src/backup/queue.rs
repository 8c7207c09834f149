//! The queue that the workers share.
//!
//! Directories come back last in, first out, so that few are unfinished at a time. Full frames go to whoever has nothing
//! else to do. A worker that finds nothing while all others wait knows that everything is done. A checkpoint parks all
//! workers; the last one to park makes it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::repository::FrameBuilder;

/// What a worker finds to do.
pub(super) enum Next<W> {
    Work(W),
    Frame(FrameBuilder),
    /// A checkpoint wants everybody to park.
    Park,
    /// Everything is done, or the run has failed.
    End,
}

struct State<W> {
    work: Vec<W>,
    frames: VecDeque<FrameBuilder>,
    waiting: usize,
    parked: usize,
    round: u64,
    ended: bool,
}

pub(super) struct Queue<W> {
    state: Mutex<State<W>>,
    changed: Condvar,
    workers: usize,
    /// Workers with nothing to do, to decide quickly whether to hand over a frame.
    idle: AtomicUsize,
    parking: AtomicBool,
    /// The run has failed, to see quickly.
    over: AtomicBool,
}

impl<W> Queue<W> {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            state: Mutex::new(State {
                work: Vec::new(),
                frames: VecDeque::new(),
                waiting: 0,
                parked: 0,
                round: 0,
                ended: false,
            }),
            changed: Condvar::new(),
            workers,
            idle: AtomicUsize::new(0),
            parking: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, work: W) {
        self.lock().work.push(work);
        if self.idle.load(Ordering::Relaxed) > 0 {
            self.changed.notify_one();
        }
    }

    /// Hands a frame to an idle worker; gives it back where there is none.
    pub(super) fn offer(&self, frame: FrameBuilder) -> Result<(), FrameBuilder> {
        if self.idle.load(Ordering::Relaxed) == 0 {
            return Err(frame);
        }
        let mut state = self.lock();
        if state.frames.len() >= self.workers || state.ended {
            return Err(frame);
        }
        state.frames.push_back(frame);
        self.changed.notify_one();
        Ok(())
    }

    pub(super) fn next(&self) -> Next<W> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return Next::End;
            }
            if let Some(frame) = state.frames.pop_front() {
                return Next::Frame(frame);
            }
            if self.wants_parking() {
                return Next::Park;
            }
            if let Some(work) = state.work.pop() {
                return Next::Work(work);
            }
            state.waiting += 1;
            if state.waiting == self.workers {
                state.ended = true;
                self.changed.notify_all();
                return Next::End;
            }
            self.idle.fetch_add(1, Ordering::Relaxed);
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            self.idle.fetch_sub(1, Ordering::Relaxed);
            state.waiting -= 1;
        }
    }

    /// Takes a frame that nobody has taken yet. For a checkpoint, which must leave none behind.
    pub(super) fn take_frame(&self) -> Option<FrameBuilder> {
        self.lock().frames.pop_front()
    }

    /// Ends everything early.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.lock().ended = true;
        self.changed.notify_all();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Asks every worker to park.
    pub(super) fn request_parking(&self) {
        self.parking.store(true, Ordering::Relaxed);
        // under the lock, so that nobody who is about to wait misses it
        let _state = self.lock();
        self.changed.notify_all();
    }

    pub(super) fn wants_parking(&self) -> bool {
        self.parking.load(Ordering::Relaxed)
    }

    /// Parks a worker whose frames are flushed. The last one runs `work` while the others wait.
    pub(super) fn park(&self, work: impl FnOnce()) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        state.parked += 1;
        if state.parked == self.workers {
            drop(state);
            work();
            state = self.lock();
            state.parked = 0;
            state.round += 1;
            self.parking.store(false, Ordering::Relaxed);
            self.changed.notify_all();
            return;
        }
        let round = state.round;
        while state.round == round && !state.ended {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
