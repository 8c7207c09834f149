//! Managing key slots. The data key never changes; who may use it does.

use lakebed_core::id::KeySlotId;
use lakebed_core::layout;
use lakebed_core::record::key_slot::{KeySlot, Secret, Unlock};
use lakebed_core::time::Timestamp;

use super::Repository;
use super::store::draw;
use crate::error::{Error, Result};

/// A key slot, to show to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id.
    pub id: KeySlotId,
    /// When it was made.
    pub created: Timestamp,
    /// What opens it.
    pub unlock: Unlock,
    /// Its label.
    pub label: String,
    /// It is the one that opened the repository just now.
    pub current: bool,
}

impl Repository {
    /// Lists the key slots, oldest first. One of another key, which an attempt to make this repository left that was cut
    /// off, opens nothing and is not listed.
    ///
    /// # Errors
    /// Storage, or a damaged slot.
    pub fn list_keys(&self) -> Result<Vec<KeyInfo>> {
        let mut keys = Vec::new();
        for id in self.store.list_ids::<KeySlotId>(layout::KEYS)? {
            let key = layout::key_slot(id);
            let damaged = |source| Error::Record { key: key.clone(), source };
            let slot = KeySlot::decode(id, &self.store.storage().get(&key)?).map_err(damaged)?;
            // its bytes are as they were written, so this one was written with another key
            let Ok(label) = slot.open_label(self.store.keys()) else { continue };
            keys.push(KeyInfo { id, created: slot.created, unlock: slot.unlock, label, current: id == self.slot });
        }
        keys.sort_by_key(|key| (key.created, key.id));
        Ok(keys)
    }

    /// Adds a key slot for another secret and returns its id.
    ///
    /// # Errors
    /// Storage; a secret that does not fit `unlock`; a repository that is not encrypted.
    pub fn add_key(&self, unlock: Unlock, secret: &Secret, label: &str) -> Result<KeySlotId> {
        let salts = [draw(self.random())?, draw(self.random())?];
        let failed = |source| Error::KeySlot { slot: "new".into(), source };
        let slot =
            KeySlot::seal(self.store.keys(), &self.config_hash, unlock, secret, label, self.clock().now(), salts)
                .map_err(failed)?;
        // a slot that does not open would be a promise that fails on the day it is needed
        let config = self.config();
        slot.open(config.repository_id, config.encryption, &self.config_hash, secret).map_err(failed)?;
        let bytes = slot.encode();
        let id = KeySlot::id(&bytes);
        self.store.storage().put(&layout::key_slot(id), &bytes)?;
        self.store.storage().sync()?;
        Ok(id)
    }

    /// Removes the key slot whose id begins with `prefix`, and returns its id.
    ///
    /// # Errors
    /// None or several match; it is the last one.
    pub fn remove_key(&self, prefix: &str) -> Result<KeySlotId> {
        let ids = self.store.list_ids::<KeySlotId>(layout::KEYS)?;
        let matching: Vec<_> = ids.iter().filter(|id| id.to_string().starts_with(prefix)).collect();
        let &[&id] = matching.as_slice() else {
            return Err(Error::KeySlotChoice { prefix: prefix.into(), count: matching.len() });
        };
        if !self.has_other_slot(id)? {
            return Err(Error::LastKeySlot { slot: id.short() });
        }
        let key = layout::key_slot(id);
        let bytes = self.store.storage().get(&key)?;
        self.store.storage().delete(&key)?;
        // somebody else may have removed the other one meanwhile
        if !self.has_other_slot(id)? {
            self.store.storage().put(&key, &bytes)?;
            self.store.storage().sync()?;
            return Err(Error::LastKeySlot { slot: id.short() });
        }
        self.store.storage().sync()?;
        Ok(id)
    }

    /// Tells whether another slot than this one is there and whole.
    pub(crate) fn has_other_slot(&self, id: KeySlotId) -> Result<bool> {
        for other in self.store.list_ids::<KeySlotId>(layout::KEYS)?.into_iter().filter(|other| *other != id) {
            let slot = match self.store.storage().get(&layout::key_slot(other)) {
                Ok(bytes) => KeySlot::decode(other, &bytes),
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            if slot.is_ok_and(|slot| slot.open_label(self.store.keys()).is_ok()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Replaces the slot that opened the repository by one for another secret, and returns the new slot's id. The new
    /// one is durable before the old one goes.
    ///
    /// # Errors
    /// As [`Repository::add_key`].
    pub fn change_secret(&self, unlock: Unlock, secret: &Secret) -> Result<KeySlotId> {
        let label = self.list_keys()?.into_iter().find(|key| key.current).map(|key| key.label).unwrap_or_default();
        let id = self.add_key(unlock, secret, &label)?;
        self.remove_key(&self.slot.to_string())?;
        Ok(id)
    }
}
