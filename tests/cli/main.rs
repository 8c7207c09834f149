//! The binary, as its users meet it: exit codes, texts, JSON.

mod backup;
mod errors;
mod kit;
mod reading;
mod restore;
