//! The pure part of lakebed: names, formats, keys, and the traits ("ports") through which IO, clock and randomness
//! come in. Nothing here opens a file, starts a thread or asks for the time.

pub mod chunker;
pub mod codec;
pub mod forward;
pub mod hash;
pub mod id;
pub mod layout;
pub mod monitor;
pub mod pack;
pub mod process;
pub mod protocol;
pub mod record;
pub mod retention;
pub mod source;
pub mod storage;
pub mod target;
pub mod text;
pub mod time;
pub mod wire;
