//! The commands, and how bytes stand for them: one byte says which, the next ones are its arguments. Bytes that are
//! missing at the end make no command.

/// No more commands are read: a sequence is to take milliseconds.
const COMMANDS_MAX: usize = 48;

/// One command of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The source changes.
    Edit(Edit),
    /// The repository is used.
    Use(Verb),
    /// The process is killed after so many writes, and a new one opens the repository.
    Killed {
        /// How many writes are carried out.
        after_writes: u8,
        /// What it is doing.
        verb: Verb,
    },
    /// The user says stop when a step begins.
    Interrupted {
        /// Which step, counted from 0.
        at_step: u8,
        /// What is interrupted.
        verb: Verb,
    },
    /// Another process does something between two steps.
    Beside {
        /// Before which step, counted from 0.
        at_step: u8,
        /// The other process is of another machine, so nobody can tell whether it lives.
        elsewhere: bool,
        /// What is going on.
        verb: Verb,
        /// What the other process does.
        other: Verb,
    },
    /// A new process opens the repository.
    Reopen {
        /// The machine was started anew in between.
        reboot: bool,
    },
    /// Time passes.
    Pass {
        /// How much of it.
        minutes: u8,
    },
    /// The wall clock is set back.
    SetBack {
        /// By how much.
        minutes: u8,
    },
    /// An object is taken away.
    Lose {
        /// Which one, counted round.
        nth: u8,
    },
}

/// A change to the source. Times always change with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// Puts a file, in the place of whatever is there.
    Write {
        /// Where.
        place: u8,
        /// What its bytes follow from.
        seed: u8,
        /// How long it is, in steps that are not even.
        size: u8,
    },
    /// Puts a file with holes.
    Sparse {
        /// Where.
        place: u8,
        /// Where the data are.
        seed: u8,
    },
    /// Puts a symbolic link.
    Symlink {
        /// Where.
        place: u8,
        /// Where it leads.
        target: u8,
    },
    /// Puts one more name of a file.
    HardLink {
        /// Where.
        place: u8,
        /// Which file, counted round.
        nth: u8,
    },
    /// Removes whatever is there.
    Remove {
        /// Where.
        place: u8,
    },
}

/// A use of the repository. `nth` counts the snapshots that it may be done to, oldest first, round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Backs the source up.
    Backup {
        /// Everything is read.
        force: bool,
        /// No snapshot is made if nothing has changed.
        skip_if_unchanged: bool,
        /// A checkpoint is made as often as can be.
        checkpoints: bool,
    },
    /// Forgets one snapshot.
    Forget {
        /// Which live one.
        nth: u8,
    },
    /// Forgets all but the newest.
    KeepLast {
        /// How many stay.
        count: u8,
    },
    /// Brings a snapshot back.
    Undo {
        /// Which forgotten one.
        nth: u8,
    },
    /// Frees space.
    Prune {
        /// Nothing may stay that is not needed, and small packs are joined.
        thorough: bool,
        /// Writers are waited for.
        patient: bool,
        /// Nothing is written.
        dry_run: bool,
    },
    /// Gives a snapshot another tag.
    Tag {
        /// Which live one.
        nth: u8,
        /// The tag.
        tag: u8,
    },
    /// Verifies.
    Verify {
        /// All data are read.
        data: bool,
    },
    /// Reads all snapshots and compares them with their copies.
    Compare,
    /// Restores a snapshot into a folder.
    Restore {
        /// Which live one.
        nth: u8,
    },
    /// Makes the index anew.
    RebuildIndex {
        /// From the packs.
        read_packs: bool,
    },
    /// Expires all sessions that are registered, whether they live or not.
    Expire,
}

/// Reads the commands that bytes stand for.
pub fn read(bytes: &[u8]) -> Vec<Command> {
    let mut input = Input(bytes);
    std::iter::from_fn(|| input.command()).take(COMMANDS_MAX).collect()
}

/// Bytes, from front to back.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn command(&mut self) -> Option<Command> {
        Some(match self.byte()? % 16 {
            0..4 => Command::Edit(self.edit()?),
            4..8 => Command::Use(self.verb()?),
            8 | 9 => Command::Killed { after_writes: self.byte()?, verb: self.verb()? },
            10 => Command::Interrupted { at_step: self.byte()? % 16, verb: self.verb()? },
            11 | 12 => {
                let how = self.byte()?;
                let (verb, other) = (self.verb()?, self.verb()?);
                Command::Beside { at_step: how % 16, elsewhere: how >= 128, verb, other }
            }
            13 => Command::Reopen { reboot: self.byte()? % 2 == 1 },
            14 => match self.byte()? {
                minutes @ 0..192 => Command::Pass { minutes },
                minutes => Command::SetBack { minutes: minutes - 192 },
            },
            _ => Command::Lose { nth: self.byte()? },
        })
    }

    fn edit(&mut self) -> Option<Edit> {
        let how = self.byte()?;
        let place = how / 8;
        Some(match how % 8 {
            0..4 => Edit::Write { place, seed: self.byte()?, size: self.byte()? },
            4 => Edit::Sparse { place, seed: self.byte()? },
            5 => Edit::Symlink { place, target: self.byte()? },
            6 => Edit::HardLink { place, nth: self.byte()? },
            _ => Edit::Remove { place },
        })
    }

    fn verb(&mut self) -> Option<Verb> {
        let how = self.byte()?;
        let bit = |number: u8| how >> (4 + number) & 1 == 1;
        Some(match how % 16 {
            0..5 => Verb::Backup { force: bit(0), skip_if_unchanged: bit(1), checkpoints: bit(2) },
            5 | 6 => Verb::Forget { nth: self.byte()? },
            7 => Verb::KeepLast { count: how >> 4 },
            8 => Verb::Undo { nth: self.byte()? },
            9 | 10 => Verb::Prune { thorough: bit(0), patient: bit(1), dry_run: bit(2) && bit(3) },
            11 => Verb::Tag { nth: self.byte()?, tag: how >> 4 },
            12 => Verb::Verify { data: bit(0) },
            13 => match how >> 4 {
                0..6 => Verb::RebuildIndex { read_packs: bit(0) },
                _ => Verb::Expire,
            },
            14 => Verb::Compare,
            _ => Verb::Restore { nth: self.byte()? },
        })
    }
}
