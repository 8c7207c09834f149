//! What a worker works at: frames that it fills, and a buffer.
//!
//! There are as many as workers are at work at a time. Where a source is far away many workers wait for it, and whoever
//! waits leaves its desk to others: frames are filled by those whose answers came, and memory does not grow with the number
//! of those who wait.

use std::sync::{Mutex, PoisonError};

use lakebed_core::codec::compress::FrameContent;

use crate::repository::FrameBuilder;

/// Frames, one for each kind of content, and a buffer for what is read.
pub(super) struct Desk {
    frames: [FrameBuilder; 3],
    pub(super) buffer: Vec<u8>,
}

impl Default for Desk {
    fn default() -> Self {
        let kinds = [FrameContent::SmallFiles, FrameContent::LargeFiles, FrameContent::LargeTexts];
        Self { frames: kinds.map(FrameBuilder::new), buffer: Vec::new() }
    }
}

impl Desk {
    /// Returns the frame for a kind of content.
    pub(super) fn frame(&mut self, content: FrameContent) -> &mut FrameBuilder {
        &mut self.frames[match content {
            FrameContent::LargeFiles => 1,
            FrameContent::LargeTexts => 2,
            FrameContent::SmallFiles | FrameContent::Metadata => 0,
        }]
    }

    /// Returns the frames that have something in them.
    pub(super) fn filled(&mut self) -> impl Iterator<Item = &mut FrameBuilder> {
        self.frames.iter_mut().filter(|frame| !frame.is_empty())
    }

    /// Leaves the frames that have something in them to somebody else.
    pub(super) fn into_filled(self) -> impl Iterator<Item = FrameBuilder> {
        self.frames.into_iter().filter(|frame| !frame.is_empty())
    }
}

/// Desks at which nobody is.
#[derive(Default)]
pub(super) struct Desks(Mutex<Vec<Desk>>);

impl Desks {
    /// Leaves a desk.
    pub(super) fn leave(&self, desk: Desk) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(desk);
    }

    /// Returns the desk that was left last, or a new one.
    pub(super) fn take(&self) -> Desk {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Takes all of them.
    pub(super) fn take_all(&self) -> Vec<Desk> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
