//! Sequences of commands that any bytes stand for, carried out on a repository in memory beside plain copies of what it
//! must hold.
//!
//! Whatever the commands are, and wherever they are killed or run into each other, this must hold:
//! * every snapshot that was reported and not forgotten is listed, with its tags, and comes back as its copy;
//! * every other that is listed comes back as a copy as well; nothing else is listed;
//! * verification finds nothing, unless an object was taken away; then it finds whatever cannot be read;
//! * after the loss of a pack or a segment the snapshots that were whole stay whole, and new ones are;
//! * nothing panics, and nothing fails without a reason that the sequence has;
//! * in the end a prune frees everything that is not needed.

mod command;
mod copy;
mod verb;
mod world;

pub use command::{Command, Edit, Verb, read};

/// Carries out what bytes stand for.
///
/// # Panics
/// Something does not hold that must.
pub fn run(bytes: &[u8]) {
    let mut world = world::World::new();
    for command in read(bytes) {
        world.carry_out(command);
    }
    world.end();
}
