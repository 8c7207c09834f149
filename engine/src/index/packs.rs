//! The packs that the index knows, by number and by name.

use std::collections::HashMap;

use lakebed_core::id::PackId;
use lakebed_core::pack::PackKind;

/// A pack's number in the local index. Numbers are never used again.
pub type PackNumber = u32;

/// What the index knows of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackEntry {
    /// Its name.
    pub id: PackId,
    /// Data or metadata.
    pub kind: PackKind,
    /// Size of the whole object in bytes.
    pub size_bytes: u64,
    /// It is in storage at its size, as far as that was looked at, and not condemned.
    pub usable: bool,
}

#[derive(Debug, Default)]
pub(super) struct PackTable {
    by_number: HashMap<PackNumber, PackEntry>,
    numbers: HashMap<PackId, PackNumber>,
    next: PackNumber,
}

impl PackTable {
    pub(super) fn insert(&mut self, number: PackNumber, entry: PackEntry) {
        self.numbers.insert(entry.id, number);
        self.by_number.insert(number, entry);
        self.skip(number);
    }

    /// Keeps a number from being used.
    pub(super) fn skip(&mut self, number: PackNumber) {
        self.next = self.next.max(number + 1);
    }

    pub(super) fn add(&mut self, entry: PackEntry) -> PackNumber {
        let number = self.next;
        self.insert(number, entry);
        number
    }

    /// Enters what else is known of a pack that may be there already: that is not used then.
    pub(super) fn put_beside(&mut self, entry: PackEntry) -> PackNumber {
        if let Some(known) = self.numbers.get(&entry.id).and_then(|number| self.by_number.get_mut(number)) {
            known.usable = false;
        }
        let number = self.next;
        self.by_number.insert(number, entry);
        self.skip(number);
        number
    }

    pub(super) fn remove(&mut self, id: &PackId) {
        if let Some(number) = self.numbers.remove(id) {
            self.by_number.remove(&number);
        }
    }

    pub(super) fn get(&self, number: PackNumber) -> Option<&PackEntry> {
        self.by_number.get(&number)
    }

    pub(super) fn number_of(&self, id: &PackId) -> Option<PackNumber> {
        self.numbers.get(id).copied()
    }

    /// Returns how many numbers are taken by packs that were removed.
    pub(super) fn removed(&self) -> usize {
        self.next as usize - self.by_number.len()
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &PackEntry> {
        self.by_number.values()
    }

    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut PackEntry> {
        self.by_number.values_mut()
    }
}
