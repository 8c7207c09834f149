//! From plain bytes to stored bytes and back: compression, seals, and the frame that carries both.

pub mod compress;
pub mod frame;
pub mod seal;
