//! `Listing`: one that takes time, while things are put and deleted.
//!
//! A listing reads its elements one after the other, in no order that could be relied on. Each element comes at most once
//! and goes at most once. So what a listing finds is told by two looks, one as it begins and one as it ends: an element
//! that is there at both is found; one that came or went meanwhile, or both, may be found or not. The test below compares
//! that with a listing that really reads one element after the other.

use crate::set::Set;

/// What can be listed at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Look {
    /// There now.
    pub(crate) there: Set,
    /// There no more.
    pub(crate) gone: Set,
}

/// A listing that has begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Listing {
    began: Look,
}

impl Listing {
    pub(crate) fn begin(now: Look) -> Self {
        Self { began: now }
    }

    /// Returns what it finds for certain, and what it may find, if it ends now.
    pub(crate) fn bounds(self, now: Look) -> (Set, Set) {
        let certain = self.began.there.and(now.there);
        (certain, now.there.or(now.gone).minus(self.began.gone).minus(certain))
    }

    /// Returns everything that it may have found if it ends now.
    pub(crate) fn results(self, now: Look) -> impl Iterator<Item = Set> {
        let (certain, perhaps) = self.bounds(now);
        perhaps.subsets().map(move |some| some.or(certain))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ELEMENTS: u8 = 3;

    /// Everything that may happen: an unread element is read, one comes, or one goes.
    fn read_one_by_one(began: Look, now: Look, read: Set, found: Set, results: &mut BTreeSet<(Look, Look, Set)>) {
        if read.iter().count() == usize::from(ELEMENTS) {
            results.insert((began, now, found));
        }
        for element in 0..ELEMENTS {
            if !read.contains(element) {
                let found = if now.there.contains(element) { found.with(element) } else { found };
                read_one_by_one(began, now, read.with(element), found, results);
            }
            if now.there.contains(element) {
                let now = Look { there: now.there.without(element), gone: now.gone.with(element) };
                read_one_by_one(began, now, read, found, results);
            } else if !now.gone.contains(element) {
                let now = Look { there: now.there.with(element), ..now };
                read_one_by_one(began, now, read, found, results);
            }
        }
    }

    #[test]
    fn two_looks_tell_what_reading_one_by_one_finds() {
        let all: Set = (0..ELEMENTS).collect();
        let (mut read, mut told) = (BTreeSet::new(), BTreeSet::new());
        for there in all.subsets() {
            for gone in all.minus(there).subsets() {
                let began = Look { there, gone };
                read_one_by_one(began, began, Set::EMPTY, Set::EMPTY, &mut read);
            }
        }
        let ends: BTreeSet<(Look, Look)> = read.iter().map(|(began, now, _)| (*began, *now)).collect();
        for (began, now) in ends {
            told.extend(Listing::begin(began).results(now).map(|found| (began, now, found)));
        }
        assert_eq!(read, told);
    }
}
