//! `Set`: a small set of small numbers, for packs, snapshots or sessions.

use std::fmt;

/// Numbers below 8.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Set(u8);

impl Set {
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) fn one(member: u8) -> Self {
        Self(1 << member)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, member: u8) -> bool {
        self.0 >> member & 1 == 1
    }

    pub(crate) fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    pub(crate) fn with(self, member: u8) -> Self {
        self.or(Self::one(member))
    }

    pub(crate) fn without(self, member: u8) -> Self {
        self.minus(Self::one(member))
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |member| self.contains(*member))
    }

    /// Returns every set of some of these, the empty one and the whole one included.
    pub(crate) fn subsets(self) -> impl Iterator<Item = Self> {
        // counts through the bits of the set alone
        let next = move |set: &Self| (set.0 != self.0).then(|| Self(set.0.wrapping_sub(self.0) & self.0));
        std::iter::successors(Some(Self::EMPTY), next)
    }
}

impl FromIterator<u8> for Set {
    fn from_iter<I: IntoIterator<Item = u8>>(members: I) -> Self {
        members.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[test]
fn subsets_are_all_and_each_once() {
    let set: Set = [0, 2, 5].into_iter().collect();
    let subsets: Vec<_> = set.subsets().collect();
    assert_eq!(subsets.len(), 8);
    assert!(subsets.iter().all(|subset| set.covers(*subset)));
    assert_eq!(subsets.iter().collect::<std::collections::BTreeSet<_>>().len(), 8);
    assert_eq!(Set::EMPTY.subsets().collect::<Vec<_>>(), [Set::EMPTY]);
}
