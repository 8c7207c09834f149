//! RocksDB: the only file that knows it.
//!
//! The folder of an index holds `lock`, taken by the one process that writes, and `rocks-<n>`, of which the highest
//! number counts: an index made anew begins in a new folder, so that readers beside it keep theirs. There is no
//! write-ahead log, since everything can be folded again; a flush is atomic over all column families, so that what is
//! marked as folded is folded.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use lakebed_core::id::{PackId, RepositoryId, SegmentId};
use lakebed_core::pack::{BlobId, PackInfo, PackKind, Removal};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompactionStyle,
    DataBlockIndexType, ErrorKind, FlushOptions, IteratorMode, MergeOperands, Options, WaitForCompactOptions,
    WriteBatch, WriteOptions,
};
use rustix::fs::FlockOperation;

use super::packs::{PackEntry, PackNumber};
use super::{Mode, PLACE_LEN, places};
use crate::error::Error;

/// Version of what is kept in RocksDB. Another one leads to a new index.
const SCHEMA: &[u8] = b"lakebed index 3";

/// Files of the index are about so large: a few for each hundred million chunks.
const FILE_BYTES: u64 = 256 << 20;
/// With so many sorted runs of a family, some are joined.
const RUNS_MAX: i32 = 8;
/// A run waits no longer for that. What short runs have left is joined in far less.
const JOIN_TIME_MICROS: u64 = 10_000_000;

const CHUNKS: &str = "chunks";
const PACKS: &str = "packs";
const SEGMENTS: &str = "segments";
const META: &str = "meta";
/// Keys in `meta`: packs that were removed, segments that were replaced.
const REMOVED: &[u8] = b"removed/";
const REPLACED: &[u8] = b"replaced/";
const FAMILIES: [&str; 4] = [CHUNKS, PACKS, SEGMENTS, META];

/// A failure of RocksDB, told apart by whether making the index anew cures it.
#[derive(Debug)]
pub(super) enum RocksError {
    Corrupt { path: PathBuf, message: String },
    Failed(Error),
}

impl From<RocksError> for Error {
    fn from(error: RocksError) -> Self {
        match error {
            RocksError::Corrupt { path, message } => Self::Index { path, message },
            RocksError::Failed(error) => error,
        }
    }
}

type Result<T> = std::result::Result<T, RocksError>;

pub(super) struct Rocks {
    db: DB,
    cache: Cache,
    path: PathBuf,
    mode: Mode,
    /// Held as long as this process writes the index.
    _lock: Option<File>,
    /// A secondary's own folder, removed at the end.
    scratch: Option<PathBuf>,
}

impl std::fmt::Debug for Rocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rocks").field("path", &self.path).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Drop for Rocks {
    fn drop(&mut self) {
        if let Some(scratch) = &self.scratch {
            // it holds nothing but RocksDB's messages
            let _ = std::fs::remove_dir_all(scratch);
        }
    }
}

fn numbered(folder: &Path, prefix: &str) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort();
    found
}

impl Rocks {
    /// Opens the index in `folder`, or makes a new one where there is none or `anew` asks for it.
    ///
    /// Returns `None` where another process holds the folder and there is nothing to read yet. Where the folder cannot be
    /// written, [`Rocks::open_as_it_is`] may still read it.
    pub(super) fn open(folder: &Path, repository: RepositoryId, memory_bytes: u64, anew: bool) -> Result<Option<Self>> {
        let local = |operation| {
            move |source| RocksError::Failed(Error::Local { operation, path: folder.to_path_buf(), source })
        };
        std::fs::create_dir_all(folder).map_err(local("make the cache folder"))?;
        let lock = File::create(folder.join("lock")).map_err(local("make the lock file in"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Self::open_primary(folder, repository, memory_bytes, anew, lock).map(Some),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Self::open_secondary(folder, repository, memory_bytes)),
            Err(error) => Err(local("lock")(error.into())),
        }
    }

    fn open_primary(
        folder: &Path,
        repository: RepositoryId,
        memory_bytes: u64,
        anew: bool,
        lock: File,
    ) -> Result<Self> {
        let existing = numbered(folder, "rocks-");
        let newest = existing.last();
        let path = match newest {
            Some((_, path)) if !anew => path.clone(),
            _ => folder.join(format!("rocks-{}", newest.map_or(1, |(number, _)| number + 1))),
        };
        let fresh = !path.exists();
        let opened = Self::open_or_make(&path, fresh, repository, memory_bytes, lock);
        if fresh && opened.is_err() {
            // half an index would only take space, which may be what is missing
            let _ = std::fs::remove_dir_all(&path);
        }
        let rocks = opened?;
        for (_, old) in existing.iter().filter(|(_, path)| *path != rocks.path) {
            // readers beside us keep what they have open
            let _ = std::fs::remove_dir_all(old);
        }
        for (pid, scratch) in numbered(folder, "secondary-") {
            if !Path::new("/proc").join(pid.to_string()).exists() {
                let _ = std::fs::remove_dir_all(scratch);
            }
        }
        Ok(rocks)
    }

    fn open_or_make(path: &Path, fresh: bool, repository: RepositoryId, memory_bytes: u64, lock: File) -> Result<Self> {
        let (options, families, cache) = options(memory_bytes);
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|error| classify(path, &error))?;
        let rocks = Self { db, cache, path: path.into(), mode: Mode::Primary, _lock: Some(lock), scratch: None };
        if !fresh {
            rocks.check_identity(repository)?;
            return Ok(rocks);
        }
        let mut batch = WriteBatch::default();
        batch.put_cf(rocks.family(META)?, b"schema", SCHEMA);
        batch.put_cf(rocks.family(META)?, b"repository", repository.as_bytes());
        rocks.write(batch)?;
        // there is no log: a process that is killed must not leave an index that does not know whose it is
        rocks.flush()?;
        Ok(rocks)
    }

    fn open_secondary(folder: &Path, repository: RepositoryId, memory_bytes: u64) -> Option<Self> {
        let (_, path) = numbered(folder, "rocks-").pop()?;
        let scratch = folder.join(format!("secondary-{}", std::process::id()));
        let (options, families, cache) = options(memory_bytes);
        // a primary that is only just making or remaking its index is no reason to fail: all is in storage
        let Ok(db) = DB::open_cf_descriptors_as_secondary(&options, &path, &scratch, families) else {
            let _ = std::fs::remove_dir_all(&scratch);
            return Self::open_as_it_is(folder, repository, memory_bytes);
        };
        let rocks = Self { db, cache, path, mode: Mode::Secondary, _lock: None, scratch: Some(scratch) };
        rocks.check_identity(repository).is_ok().then_some(rocks)
    }

    /// Opens the index without writing anything, for a folder on a full disk, or one that we may only read. Nobody is
    /// kept from writing it meanwhile: the files that it consists of now are opened at once and stay readable.
    ///
    /// Returns `None` where there is nothing that can be read.
    pub(super) fn open_as_it_is(folder: &Path, repository: RepositoryId, memory_bytes: u64) -> Option<Self> {
        let (_, path) = numbered(folder, "rocks-").pop()?;
        let (options, families, cache) = options(memory_bytes);
        let db = DB::open_cf_descriptors_read_only(&options, &path, families, false).ok()?;
        let rocks = Self { db, cache, path, mode: Mode::ReadOnly, _lock: None, scratch: None };
        rocks.check_identity(repository).is_ok().then_some(rocks)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    fn check_identity(&self, repository: RepositoryId) -> Result<()> {
        let get = |key: &[u8]| self.db.get_cf(self.family(META)?, key).map_err(|error| self.classify(&error));
        if get(b"schema")?.as_deref() != Some(SCHEMA) {
            return Err(self.corrupt("it was made by another version of lakebed or never finished"));
        }
        if get(b"repository")?.as_deref() != Some(&repository.as_bytes()[..]) {
            return Err(self.corrupt("it belongs to another repository"));
        }
        Ok(())
    }

    fn family(&self, name: &str) -> Result<&ColumnFamily> {
        self.db.cf_handle(name).ok_or_else(|| self.corrupt("a column family is missing"))
    }

    fn corrupt(&self, message: &str) -> RocksError {
        RocksError::Corrupt { path: self.path.clone(), message: message.into() }
    }

    fn classify(&self, error: &rocksdb::Error) -> RocksError {
        classify(&self.path, error)
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(|error| self.classify(&error))
    }

    /// Enters packs with all that they hold, all or nothing.
    pub(super) fn add_packs(&self, packs: &[(PackNumber, &PackInfo)]) -> Result<()> {
        let (chunks, families) = (self.family(CHUNKS)?, self.family(PACKS)?);
        let mut batch = WriteBatch::default();
        let mut all = Vec::new();
        for &(number, pack) in packs {
            let mut value = pack.id.as_bytes().to_vec();
            value.push(kind_code(pack.directory.kind));
            value.extend_from_slice(&pack.size_bytes.to_le_bytes());
            batch.put_cf(families, number.to_be_bytes(), value);
            places(number, pack, |id, place| all.push((id, place)));
        }
        // RocksDB takes rows in order twice as fast
        all.sort_unstable_by_key(|(id, _)| *id);
        all.iter().for_each(|(id, place)| batch.merge_cf(chunks, id.as_bytes(), place.encode()));
        self.write(batch)
    }

    /// Marks a segment as folded.
    pub(super) fn mark_segment(&self, segment: SegmentId) -> Result<()> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(SEGMENTS)?, segment.as_bytes(), b"");
        self.write(batch)
    }

    /// Enters a removal segment. What the packs held is left behind; their numbers are never used again.
    pub(super) fn add_removal(&self, segment: SegmentId, removal: &Removal, numbers: &[PackNumber]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for pack in &removal.packs {
            batch.put_cf(self.family(META)?, [REMOVED, pack.as_bytes()].concat(), b"");
        }
        for replaced in &removal.replaced {
            batch.put_cf(self.family(META)?, [REPLACED, replaced.as_bytes()].concat(), b"");
        }
        for number in numbers {
            // the row stays, so that the number stays taken
            batch.put_cf(self.family(PACKS)?, number.to_be_bytes(), b"");
        }
        batch.put_cf(self.family(SEGMENTS)?, segment.as_bytes(), b"");
        self.write(batch)
    }

    pub(super) fn segments(&self) -> Result<HashSet<SegmentId>> {
        let mut all = HashSet::new();
        self.scan(SEGMENTS, |key, _| {
            all.insert(SegmentId::from_slice(key)?);
            Some(())
        })?;
        Ok(all)
    }

    /// Returns the packs that were removed.
    pub(super) fn removed(&self) -> Result<HashSet<PackId>> {
        self.named_below(REMOVED, PackId::from_slice)
    }

    /// Returns the segments that others took the place of.
    pub(super) fn replaced(&self) -> Result<HashSet<SegmentId>> {
        self.named_below(REPLACED, SegmentId::from_slice)
    }

    fn named_below<T: Eq + std::hash::Hash>(
        &self,
        prefix: &[u8],
        id: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<HashSet<T>> {
        let mut all = HashSet::new();
        self.scan(META, |key, _| {
            if let Some(name) = key.strip_prefix(prefix) {
                all.insert(id(name)?);
            }
            Some(())
        })?;
        Ok(all)
    }

    /// Forgets segments that are no longer in storage: what they said is said by others.
    pub(super) fn forget_segments(&self, segments: &[SegmentId]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for segment in segments {
            batch.delete_cf(self.family(SEGMENTS)?, segment.as_bytes());
        }
        self.write(batch)
    }

    /// Returns every pack by number; a number whose pack was removed comes alone.
    pub(super) fn packs(&self) -> Result<Vec<(PackNumber, Option<PackEntry>)>> {
        let mut all = Vec::new();
        self.scan(PACKS, |key, value| {
            let number = PackNumber::from_be_bytes(key.try_into().ok()?);
            if value.is_empty() {
                all.push((number, None));
                return Some(());
            }
            let (id, rest) = value.split_at_checked(32)?;
            let (kind, size) = rest.split_first()?;
            let entry = PackEntry {
                id: PackId::from_slice(id)?,
                kind: if *kind == kind_code(PackKind::Tree) { PackKind::Tree } else { PackKind::Data },
                size_bytes: u64::from_le_bytes(size.try_into().ok()?),
                usable: true,
            };
            all.push((number, Some(entry)));
            Some(())
        })?;
        Ok(all)
    }

    /// Passes every row of a family to `each`, which returns `None` for one that cannot be.
    fn scan(&self, family: &str, mut each: impl FnMut(&[u8], &[u8]) -> Option<()>) -> Result<()> {
        for row in self.db.iterator_cf(self.family(family)?, IteratorMode::Start) {
            let (key, value) = row.map_err(|error| self.classify(&error))?;
            each(&key, &value).ok_or_else(|| self.corrupt("it holds a row that cannot be"))?;
        }
        Ok(())
    }

    pub(super) fn each(&self, mut each: impl FnMut(BlobId, &[u8])) -> Result<()> {
        self.scan(CHUNKS, |key, value| {
            each(BlobId::new(key.try_into().ok()?), value);
            Some(())
        })
    }

    /// Passes the places of a chunk or node to `read`.
    pub(super) fn get<T>(&self, id: &BlobId, read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        let value =
            self.db.get_pinned_cf(self.family(CHUNKS)?, id.as_bytes()).map_err(|error| self.classify(&error))?;
        match value {
            Some(value) if value.len() % PLACE_LEN != 0 => Err(self.corrupt("it holds a row that cannot be")),
            value => Ok(value.map(|value| read(&value))),
        }
    }

    pub(super) fn flush(&self) -> Result<()> {
        let families = FAMILIES.iter().map(|name| self.family(name)).collect::<Result<Vec<_>>>()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families, &options).map_err(|error| self.classify(&error))?;
        self.join_files(&families);
        Ok(())
    }

    /// Waits for a while until files are joined where there are many. RocksDB does that beside other work, and gives it up
    /// when the index is closed: runs that are over sooner would leave one file more each time, for ever.
    fn join_files(&self, families: &[&ColumnFamily]) {
        let runs = |family: &&ColumnFamily| self.db.property_int_value_cf(*family, "rocksdb.num-files-at-level0");
        if families.iter().any(|family| runs(family).ok().flatten().is_some_and(|runs| runs >= RUNS_MAX as u64)) {
            let mut options = WaitForCompactOptions::default();
            options.set_timeout(JOIN_TIME_MICROS);
            // all is kept already; what cannot be joined now, for want of time or room, the next run tries
            let _ = self.db.wait_for_compact(&options);
        }
    }

    /// Returns (rows of chunks, about; bytes on disk; bytes in memory).
    pub(super) fn figures(&self) -> (u64, u64, u64) {
        let property = |family: &str, name: &str| {
            let family = self.family(family).ok()?;
            self.db.property_int_value_cf(family, name).ok().flatten()
        };
        let of_all = |name: &str| FAMILIES.iter().filter_map(|family| property(family, name)).sum::<u64>();
        let rows = property(CHUNKS, "rocksdb.estimate-num-keys").unwrap_or_default();
        let memory = of_all("rocksdb.cur-size-all-mem-tables") + of_all("rocksdb.estimate-table-readers-mem");
        (rows, of_all("rocksdb.total-sst-files-size"), memory + self.cache.get_usage() as u64)
    }
}

fn kind_code(kind: PackKind) -> u8 {
    match kind {
        PackKind::Data => 1,
        PackKind::Tree => 2,
    }
}

/// Only what RocksDB calls corrupt leads to a new index; a full disk or too many open files do not.
fn classify(path: &Path, error: &rocksdb::Error) -> RocksError {
    let message = error.to_string();
    match error.kind() {
        ErrorKind::Corruption | ErrorKind::NotFound | ErrorKind::InvalidArgument | ErrorKind::NotSupported => {
            RocksError::Corrupt { path: path.to_path_buf(), message }
        }
        // a file of the index that is missing is reported as an I/O error
        ErrorKind::IOError if message.contains("No such file") => {
            RocksError::Corrupt { path: path.to_path_buf(), message }
        }
        _ => RocksError::Failed(Error::Local {
            operation: "use the local index",
            path: path.to_path_buf(),
            source: std::io::Error::new(io_kind(&message), message),
        }),
    }
}

/// RocksDB passes on only the words of the system's error, which are those of the C locale.
fn io_kind(message: &str) -> std::io::ErrorKind {
    use std::io::ErrorKind as Io;
    let kinds = [
        ("No space left on device", Io::StorageFull),
        ("Disk quota exceeded", Io::QuotaExceeded),
        ("Permission denied", Io::PermissionDenied),
        ("Read-only file system", Io::ReadOnlyFilesystem),
    ];
    kinds.into_iter().find(|(words, _)| message.contains(words)).map_or(Io::Other, |(_, kind)| kind)
}

/// Joins the places of one chunk: what is there, then what is new.
fn join_places(_key: &[u8], existing: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    let mut all = existing.unwrap_or_default().to_vec();
    for operand in operands {
        for place in operand.chunks(PLACE_LEN) {
            if !all.chunks(PLACE_LEN).any(|known| known == place) {
                all.extend_from_slice(place);
            }
        }
    }
    Some(all)
}

/// Divides the memory: half to the block cache (index and filter blocks live there too), a quarter to write buffers.
fn options(memory_bytes: u64) -> (Options, Vec<ColumnFamilyDescriptor>, Cache) {
    let memory = usize::try_from(memory_bytes).unwrap_or(usize::MAX);
    let cache = Cache::new_lru_cache((memory / 2).max(1 << 20));
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    // files stay open: opening one for a lookup costs more than all the rest of it. There are few, since they are large
    options.set_max_open_files(-1);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(1);
    options.set_stats_dump_period_sec(0);
    options.set_log_level(rocksdb::LogLevel::Warn);
    let family = |name: &str| {
        let mut options = Options::default();
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_format_version(5);
        if name == CHUNKS {
            table.set_bloom_filter(10.0, false);
            // whole filters of a large index, a megabyte and more, find no place in a small cache and would be read again
            // for each chunk that is looked up
            table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
            table.set_partition_filters(true);
            table.set_pin_top_level_index_and_filter(true);
            table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
            options.set_write_buffer_size((memory / 8).clamp(1 << 20, 64 << 20));
            options.set_merge_operator_associative("places", join_places);
        } else {
            options.set_write_buffer_size(1 << 20);
        }
        // what a night adds is joined with what other nights have added, not with all that is there
        options.set_compaction_style(DBCompactionStyle::Universal);
        options.set_level_zero_file_num_compaction_trigger(RUNS_MAX);
        options.set_target_file_size_base(FILE_BYTES);
        options.set_compression_type(rocksdb::DBCompressionType::None);
        options.set_block_based_table_factory(&table);
        ColumnFamilyDescriptor::new(name, options)
    };
    let families = FAMILIES
        .iter()
        .map(|name| family(name))
        .chain([ColumnFamilyDescriptor::new(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, Options::default())]);
    let families = families.collect();
    (options, families, cache)
}
