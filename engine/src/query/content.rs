//! A file's bytes: written somewhere, or compared with those of another one.

use std::io::Write;

use lakebed_core::record::tree::{Content, Entry, EntryKind, Extent};

use crate::error::{Error, Result};
use crate::repository::{BlobReader, Need};

/// Zeros to write holes with.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes the content of a file, holes as zeros, and checks the whole against the hash that was recorded.
///
/// # Errors
/// What is no file; a chunk that is missing or damaged; the hash of the whole differs; `out` fails.
pub fn write_content(reader: &BlobReader, entry: &Entry, path: &str, out: &mut dyn Write) -> Result<()> {
    if entry.kind != EntryKind::File {
        return Err(Error::WrongKind { path: path.into(), found: entry.kind.as_str(), expected: "file" });
    }
    let failed = |source| Error::Machine { operation: "write to the output", source };
    let reader = &reader.ahead_of(vec![Need::File(Box::new(entry.clone()))]);
    let mut hasher = reader.store().keys().content_hasher();
    let whole = matches!(entry.content, Content::Extents { .. } | Content::Indirect { .. });
    for run in reader.extent_runs(entry) {
        let run = run?;
        let mut left = run.as_slice();
        while let Some(extent) = left.first() {
            let mut count = 1;
            match *extent {
                Extent::Data { .. } => {
                    let (read, written) = reader.with_chunks(left, |plain| {
                        if whole {
                            hasher.update(plain);
                        }
                        out.write_all(plain).map(|()| plain.len() as u64).map_err(failed)
                    })?;
                    if written? != left[..read].iter().map(Extent::length).sum::<u64>() {
                        return Err(Error::WrongContent { path: path.into() });
                    }
                    count = read;
                }
                Extent::Hole { mut length } => {
                    while length > 0 {
                        let part = length.min(ZEROS.len() as u64);
                        out.write_all(&ZEROS[..part as usize]).map_err(failed)?;
                        length -= part;
                    }
                }
            }
            left = &left[count..];
        }
    }
    match entry.content.hash() {
        Some(hash) if whole && hash != hasher.finish() => Err(Error::WrongContent { path: path.into() }),
        _ => Ok(()),
    }
}

/// Tells whether two files of one repository have the same content, without reading it.
///
/// # Errors
/// A node of a long list is missing or damaged.
pub(crate) fn is_same_content(reader: &BlobReader, one: &Entry, other: &Entry) -> Result<bool> {
    if one.size != other.size || one.content.hash() != other.content.hash() {
        return Ok(false);
    }
    // what was read is the same, however it was cut; the hash does not say where the holes are
    Ok(one.content == other.content || has_same_holes(reader, one, other)?)
}

fn has_same_holes(reader: &BlobReader, one: &Entry, other: &Entry) -> Result<bool> {
    let (mut one, mut other) = (holes(reader, one), holes(reader, other));
    loop {
        match (one.next().transpose()?, other.next().transpose()?) {
            (None, None) => return Ok(true),
            (one, other) if one != other => return Ok(false),
            _ => {}
        }
    }
}

/// Iterates over the holes of a file, in order: where each begins, and its length.
fn holes(reader: &BlobReader, entry: &Entry) -> impl Iterator<Item = Result<(u64, u64)>> {
    let mut at = 0;
    let mut holes_in = move |extents: Vec<Extent>| -> Vec<(u64, u64)> {
        let mut holes = Vec::new();
        for extent in extents {
            if let Extent::Hole { length } = extent {
                holes.push((at, length));
            }
            at += extent.length();
        }
        holes
    };
    let runs = reader.extent_runs(entry).map(move |run| run.map(&mut holes_in));
    runs.flat_map(|holes| match holes {
        Ok(holes) => holes.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    })
}
