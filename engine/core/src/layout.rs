//! The names of a repository's objects.

use crate::id::{CatalogueId, ID_LEN, KeySlotId, LedgerId, PackId, SegmentId, SessionId, to_hex};
use crate::storage::ObjectKey;

/// The repository's configuration.
pub const CONFIG: &str = "lakebed.json";
/// Prefix of key slots.
pub const KEYS: &str = "keys/";
/// Prefix of packs.
pub const PACKS: &str = "packs/";
/// Prefix of index segments.
pub const INDEX: &str = "index/";
/// Prefix of snapshots, and of expiries under the same keys.
pub const SNAPSHOTS: &str = "snapshots/";
/// Prefix of catalogues: what stands under many keys of snapshots, once more in one object.
pub const CATALOGUE: &str = "catalogue/";
/// Prefix of annotations.
pub const ANNOTATIONS: &str = "annotations/";
/// Prefix of tombstones.
pub const FORGOTTEN: &str = "forgotten/";
/// Prefix of the registrations, heartbeats and checkpoints of running sessions.
pub const SESSIONS: &str = "sessions/";
/// Prefix of the records of finished runs.
pub const RUNS: &str = "runs/";
/// Prefix of what prunes write.
pub const GC: &str = "gc/";
/// Prefix of verification ledgers.
pub const LEDGER: &str = "ledger/";
/// Prefix of what mediums were found to do.
pub const STORAGE: &str = "storage/";
/// Prefix of what a probe of a medium puts, and takes away again.
pub const PROBES: &str = "probes/";
/// Prefix of damaged objects that were moved aside.
pub const QUARANTINE: &str = "quarantine/";
/// Prefix of packs that were moved aside, and of what stands for those that were missing.
pub const LOST_PACKS: &str = "quarantine/packs/";

fn key(name: String) -> ObjectKey {
    // every name here is made of a constant prefix and of hexadecimal digits, or of another key, so it is always valid
    #[expect(clippy::expect_used)]
    ObjectKey::new(name).expect("a valid object key")
}

/// Returns the key of the configuration.
pub fn config() -> ObjectKey {
    key(CONFIG.into())
}

/// Returns the key of a key slot.
pub fn key_slot(id: KeySlotId) -> ObjectKey {
    key(format!("{KEYS}{id}"))
}

/// Returns the key of a pack.
pub fn pack(id: PackId) -> ObjectKey {
    let name = id.to_string();
    key(format!("{PACKS}{}/{name}", &name[..2]))
}

/// Returns the key of an index segment.
pub fn segment(id: SegmentId) -> ObjectKey {
    key(format!("{INDEX}{id}"))
}

/// Returns the key of a session's snapshot, or of its expiry.
pub fn snapshot(session: SessionId) -> ObjectKey {
    key(format!("{SNAPSHOTS}{session}"))
}

/// Returns the key of a catalogue.
pub fn catalogue(id: CatalogueId) -> ObjectKey {
    key(format!("{CATALOGUE}{id}"))
}

/// Returns the key of the `number`th annotation of a snapshot.
pub fn annotation(snapshot: SessionId, number: u32) -> ObjectKey {
    key(format!("{ANNOTATIONS}{snapshot}/{number:08x}"))
}

/// Returns the key of the `number`th tombstone of a snapshot.
pub fn tombstone(snapshot: SessionId, number: u32) -> ObjectKey {
    key(format!("{FORGOTTEN}{snapshot}/{number:08x}/tombstone"))
}

/// Returns the key under which that tombstone is undone or condemned.
pub fn resolution(snapshot: SessionId, number: u32) -> ObjectKey {
    key(format!("{FORGOTTEN}{snapshot}/{number:08x}/resolution"))
}

/// Returns the key of the `number`th record of a running session; 0 is its registration.
pub fn session(session: SessionId, number: u32) -> ObjectKey {
    key(format!("{SESSIONS}{session}/{number:08x}"))
}

/// Returns the key of the record of a finished run.
pub fn run(session: SessionId) -> ObjectKey {
    key(format!("{RUNS}{session}"))
}

/// Returns the key by which a prune claims a generation.
pub fn claim(generation: u64) -> ObjectKey {
    key(format!("{GC}{generation:016x}/claim"))
}

/// Returns the key of the `number`th list of packs condemned in a generation.
pub fn condemnation(generation: u64, number: u32) -> ObjectKey {
    key(format!("{GC}{generation:016x}/condemned/{number:08x}"))
}

/// Returns the key of the list of sessions that the prune of a generation waits for.
pub fn awaited(generation: u64) -> ObjectKey {
    key(format!("{GC}{generation:016x}/awaited"))
}

/// Returns the key of a generation's done mark.
pub fn done(generation: u64) -> ObjectKey {
    key(format!("{GC}{generation:016x}/done"))
}

/// Returns the key of a verification ledger.
pub fn ledger(id: LedgerId) -> ObjectKey {
    key(format!("{LEDGER}{id}"))
}

/// Returns what the keys of the probes of a place begin with. A place is named by the hash of its identity.
pub fn storage_probes(place: &[u8; ID_LEN]) -> String {
    format!("{STORAGE}{}/", to_hex(place))
}

/// Returns the key of the `number`th probe of a place.
pub fn storage_probe(place: &[u8; ID_LEN], number: u32) -> ObjectKey {
    key(format!("{}{number:08x}", storage_probes(place)))
}

/// Returns a key under which a probe puts something.
pub fn probe(name: &[u8; ID_LEN]) -> ObjectKey {
    key(format!("{PROBES}{}", to_hex(name)))
}

/// What an object under `gc/` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcObject {
    /// The claim of the generation.
    Claim,
    /// The list of condemned packs of that number.
    Condemnation(u32),
    /// The list of sessions to wait for.
    Awaited,
    /// The done mark.
    Done,
}

/// Tells which generation an object under `gc/` belongs to, and what it is; `None` for names that are not ours. The
/// highest number of all is passed over: no prune claims it, so that above each that counts there is room for another one.
pub fn parse_gc(key: &ObjectKey) -> Option<(u64, GcObject)> {
    let mut parts = key.as_str().strip_prefix(GC)?.split('/');
    let generation = u64::from_str_radix(parts.next()?, 16).ok().filter(|&generation| generation < u64::MAX)?;
    let object = match (parts.next()?, parts.next()) {
        ("claim", None) => GcObject::Claim,
        ("awaited", None) => GcObject::Awaited,
        ("done", None) => GcObject::Done,
        ("condemned", Some(number)) => GcObject::Condemnation(u32::from_str_radix(number, 16).ok()?),
        _ => return None,
    };
    let same = match object {
        GcObject::Claim => claim(generation),
        GcObject::Condemnation(number) => condemnation(generation, number),
        GcObject::Awaited => awaited(generation),
        GcObject::Done => done(generation),
    };
    (same == *key).then_some((generation, object))
}

/// Returns the key that a damaged object is moved to; `number` tells several of one name apart.
pub fn quarantine(object: &ObjectKey, number: u32) -> ObjectKey {
    match number {
        0 => key(format!("{QUARANTINE}{object}")),
        _ => key(format!("{QUARANTINE}{object}.{number}")),
    }
}

/// Tells whether only one thing can ever be put under a key: it is named after its bytes, or belongs to one session, which
/// puts it once.
pub fn is_of_one_thing(key: &ObjectKey) -> bool {
    [PACKS, INDEX, CATALOGUE, LEDGER, KEYS, SESSIONS, RUNS].iter().any(|prefix| key.as_str().starts_with(prefix))
}

/// Returns the last part of a key: the id that an object is named by.
pub fn last_part(key: &ObjectKey) -> &str {
    key.as_str().rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_generations_are_read_as_they_are_written() {
        for (key, object) in [
            (claim(7), GcObject::Claim),
            (condemnation(7, 300), GcObject::Condemnation(300)),
            (awaited(7), GcObject::Awaited),
            (done(7), GcObject::Done),
        ] {
            assert_eq!(parse_gc(&key), Some((7, object)), "{key}");
        }
        for other in [
            "gc/7/claim",
            "gc/0000000000000007",
            "gc/0000000000000007/condemned",
            "gc/0000000000000007/condemned/1",
            "gc/0000000000000007/other",
            "gc/0000000000000007/claim/1",
            "gc/ffffffffffffffff/claim",
            "runs/0000000000000007/claim",
        ] {
            assert_eq!(parse_gc(&key(other.into())), None, "{other}");
        }
    }

    #[test]
    fn a_name_in_quarantine_tells_what_it_was() {
        let name = |number| quarantine(&key("runs/ab".into()), number).to_string();
        assert_eq!(name(0), "quarantine/runs/ab");
        assert_eq!(name(1), "quarantine/runs/ab.1");
        assert_eq!(name(12), "quarantine/runs/ab.12");
    }

    #[test]
    fn what_several_may_want_to_put_is_told_apart_from_what_only_one_can() {
        let session = SessionId::new([1; 32]);
        for one in [session_key(session), run(session), pack(PackId::new([1; 32]))] {
            assert!(is_of_one_thing(&one), "{one}");
        }
        for contested in
            [snapshot(session), claim(1), awaited(1), resolution(session, 0), annotation(session, 0), config()]
        {
            assert!(!is_of_one_thing(&contested), "{contested}");
        }
    }

    fn session_key(id: SessionId) -> ObjectKey {
        session(id, 0)
    }

    #[test]
    fn the_last_part_of_a_name_is_an_id() {
        let id = SessionId::new([0xab; 32]);
        assert_eq!(last_part(&snapshot(id)), "ab".repeat(32));
        assert_eq!(last_part(&key("lakebed.json".into())), "lakebed.json");
    }
}
