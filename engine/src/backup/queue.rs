//! The queue that the workers share.
//!
//! Directories come back last in, first out, so that few are unfinished at a time. Where there is nothing else to do, or
//! soon will be, full frames and large files go to whoever comes for them. A worker that finds nothing while all others
//! wait knows that everything is done. A checkpoint parks all workers but those that wait for a source that is far away; the
//! last one to park makes it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Workers that wait for a source: they have nothing in hand that a checkpoint would need.
    away: usize,
    /// A checkpoint is being made.
    running: bool,
    round: u64,
    ended: bool,
}

pub(super) struct Queue<W> {
    state: Mutex<State<W>>,
    changed: Condvar,
    workers: usize,
    /// No more frames wait to be stored.
    frames_max: usize,
    parking: AtomicBool,
    /// The run has failed, to see quickly.
    over: AtomicBool,
}

impl<W> Queue<W> {
    pub(super) fn new(workers: usize, frames_max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                work: Vec::new(),
                frames: VecDeque::new(),
                waiting: 0,
                parked: 0,
                away: 0,
                running: false,
                round: 0,
                ended: false,
            }),
            changed: Condvar::new(),
            workers,
            frames_max,
            parking: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, work: W) {
        let mut state = self.lock();
        state.work.push(work);
        if state.waiting > 0 {
            self.changed.notify_one();
        }
    }

    /// How many workers there are.
    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// Takes what was pushed last where more than `most` wait.
    pub(super) fn take_beyond(&self, most: usize) -> Option<W> {
        let mut state = self.lock();
        if state.work.len() > most { state.work.pop() } else { None }
    }

    /// Tells whether a worker that comes now, or soon, finds nothing.
    pub(super) fn runs_dry(&self) -> bool {
        self.workers > 1 && self.lock().work.is_empty()
    }

    /// Hands a frame to the other workers; gives it back where they have enough to do.
    pub(super) fn offer(&self, frame: FrameBuilder) -> Result<(), FrameBuilder> {
        if self.workers == 1 {
            return Err(frame);
        }
        let mut state = self.lock();
        // a few wait, so that nobody runs out of them while whoever fills them stores one
        if !state.work.is_empty() || state.frames.len() >= self.frames_max || state.ended {
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
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// Takes a frame that nobody has taken yet.
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

    /// Waits for a source that is far away, with nothing in hand. A checkpoint does not wait for whoever does.
    pub(super) fn away<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.lock().away += 1;
        if self.wants_parking() {
            self.changed.notify_all();
        }
        let outcome = wait();
        let mut state = self.lock();
        while state.running && !state.ended {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.away -= 1;
        outcome
    }

    /// Parks a worker whose frames are flushed. When nobody is at work any more, one of those who are parked runs `work`
    /// while the others wait.
    pub(super) fn park(&self, work: impl FnOnce()) {
        let mut state = self.lock();
        // it may have been made meanwhile
        if !self.wants_parking() {
            return;
        }
        state.parked += 1;
        let round = state.round;
        while state.round == round && !state.ended {
            if state.running || state.parked + state.away < self.workers {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.running = true;
            drop(state);
            work();
            state = self.lock();
            state.running = false;
            state.parked = 0;
            state.round += 1;
            self.parking.store(false, Ordering::Relaxed);
            self.changed.notify_all();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use lakebed_core::codec::compress::FrameContent;

    use super::*;

    #[test]
    fn frames_are_taken_where_others_run_dry_and_no_more_than_a_few() {
        let frame = || FrameBuilder::new(FrameContent::LargeFiles);
        let alone = Queue::<u8>::new(1, 1);
        assert!(!alone.runs_dry() && alone.offer(frame()).is_err());

        let queue = Queue::new(2, 2);
        queue.push(1);
        assert!(!queue.runs_dry() && queue.offer(frame()).is_err(), "there is work for the other one");
        assert!(matches!(queue.next(), Next::Work(1)));
        assert!(queue.runs_dry());
        assert!(queue.offer(frame()).is_ok() && queue.offer(frame()).is_ok() && queue.offer(frame()).is_err());
        queue.push(2);
        assert!(matches!(queue.next(), Next::Frame(_)), "frames hold memory: they go first");
        assert!(queue.take_frame().is_some() && queue.take_frame().is_none());
    }

    #[test]
    fn a_checkpoint_does_not_wait_for_those_who_wait_for_a_source() {
        let queue = Queue::<u8>::new(2, 2);
        let (called, call) = std::sync::mpsc::channel();
        let (answer, answered) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let queue = &queue;
            scope.spawn(move || {
                queue.away(|| {
                    called.send(()).unwrap();
                    answered.recv().unwrap();
                });
            });
            call.recv().unwrap();
            queue.request_parking();
            let mut is_made = false;
            queue.park(|| is_made = true);
            assert!(is_made && !queue.wants_parking());
            answer.send(()).unwrap();
        });
        // whoever comes too late goes on
        queue.park(|| unreachable!());
    }
}
