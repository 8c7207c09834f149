//! A folder of a snapshot as a tar or zip archive.

use std::collections::HashMap;
use std::io::{Seek, Write};

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::text::escape_path;

use super::{Listed, walk, write_content};
use crate::error::{Error, Result};
use crate::repository::BlobReader;

/// The kind of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// Tar with GNU's extensions: names, contents, links of both kinds, pipes, devices, owners by number, modes, and times
    /// from 1970 on in whole seconds. Extended attributes, access control lists and sockets are left out.
    Tar,
    /// Zip, deflated: names, contents, symbolic links, modes and times.
    Zip,
}

fn failed(source: std::io::Error) -> Error {
    Error::Machine { operation: "write the archive", source }
}

/// Writes an entry and everything below it as an archive, with paths relative to the entry's parent.
///
/// # Errors
/// Something is missing or damaged, or the archive cannot hold it; `out` fails. What is written until then is no whole archive.
pub fn write_archive(reader: &BlobReader, entry: &Entry, format: ArchiveFormat, out: &mut dyn Write) -> Result<()> {
    match format {
        ArchiveFormat::Tar => {
            let mut tar = TarArchive { builder: tar::Builder::new(out), hard_links: Default::default() };
            each(reader, entry, &mut |path, entry| tar.add(reader, path, entry))?;
            tar.builder.finish().map_err(failed)
        }
        ArchiveFormat::Zip => {
            let mut zip = zip::ZipWriter::new_stream(out);
            each(reader, entry, &mut |path, entry| add_to_zip(&mut zip, reader, path, entry))?;
            zip.finish().map_err(|error| failed(error.into()))?;
            Ok(())
        }
    }
}

fn each(reader: &BlobReader, top: &Entry, add: &mut dyn FnMut(&[u8], &Entry) -> Result<()>) -> Result<()> {
    if !top.name.is_empty() {
        add(&top.name, top)?;
    }
    match top.subtree {
        Some(directory) => walk(reader, directory, &top.name, &mut |path, entry| {
            add(path, entry)?;
            Ok(Listed::Descend)
        }),
        None => Ok(()),
    }
}

struct TarArchive<'a> {
    builder: tar::Builder<&'a mut dyn Write>,
    /// Each file that has more than one name, by device and number: its first path, and what it was there.
    hard_links: HashMap<(u64, u64), (Vec<u8>, Entry)>,
}

impl TarArchive<'_> {
    fn add(&mut self, reader: &BlobReader, path: &[u8], entry: &Entry) -> Result<()> {
        use tar::EntryType;
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode);
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_mtime(u64::try_from(entry.mtime.secs).unwrap_or_default());
        header.set_size(0);
        let link = entry.hard_link_device.map(|device| (device, entry.inode));
        let first = link.and_then(|link| self.hard_links.get(&link));
        if let Some((first, _)) = first.filter(|(_, first)| first.is_same_file(entry)) {
            header.set_entry_type(EntryType::Link);
            let first = first.clone();
            self.put_target(&mut header, &first)?;
            return self.append(header, path);
        }
        if let Some(link) = link.filter(|_| entry.kind == EntryKind::File) {
            self.hard_links.insert(link, (path.to_vec(), entry.clone()));
        }
        match entry.kind {
            EntryKind::Directory => {
                header.set_entry_type(EntryType::Directory);
                self.append(header, &[path, b"/"].concat())
            }
            EntryKind::Symlink => {
                header.set_entry_type(EntryType::Symlink);
                self.put_target(&mut header, &entry.link_target)?;
                self.append(header, path)
            }
            EntryKind::Fifo | EntryKind::CharDevice | EntryKind::BlockDevice => {
                header.set_entry_type(match entry.kind {
                    EntryKind::Fifo => EntryType::Fifo,
                    EntryKind::CharDevice => EntryType::Char,
                    _ => EntryType::Block,
                });
                header.set_device_major(rustix::fs::major(entry.device)).map_err(failed)?;
                header.set_device_minor(rustix::fs::minor(entry.device)).map_err(failed)?;
                self.append(header, path)
            }
            // tar has no sockets; they are nothing without the process that made them
            EntryKind::Socket => Ok(()),
            EntryKind::File => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(entry.size);
                self.put_path(&mut header, path)?;
                header.set_cksum();
                // header first, then the bytes, then padding to 512
                let out = self.builder.get_mut();
                out.write_all(header.as_bytes()).map_err(failed)?;
                write_content(reader, entry, &escape_path(path), out)?;
                out.write_all(&[0; 512][..(512 - (entry.size % 512) as usize) % 512]).map_err(failed)
            }
        }
    }

    /// Appends an entry without content.
    fn append(&mut self, mut header: tar::Header, path: &[u8]) -> Result<()> {
        self.put_path(&mut header, path)?;
        header.set_cksum();
        self.builder.append(&header, std::io::empty()).map_err(failed)
    }

    /// Puts a path into a header as it is; what is too long goes ahead.
    fn put_path(&mut self, header: &mut tar::Header, path: &[u8]) -> Result<()> {
        self.put_long(tar::EntryType::GNULongName, path)?;
        put(&mut header.as_old_mut().name, path);
        Ok(())
    }

    /// Puts the target of a link into a header, as [`TarArchive::put_path`] does.
    fn put_target(&mut self, header: &mut tar::Header, target: &[u8]) -> Result<()> {
        self.put_long(tar::EntryType::GNULongLink, target)?;
        put(&mut header.as_old_mut().linkname, target);
        Ok(())
    }

    /// Appends what does not fit into the next header, as GNU's extension has it.
    fn put_long(&mut self, kind: tar::EntryType, bytes: &[u8]) -> Result<()> {
        if bytes.len() <= NAME_BYTES {
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        put(&mut header.as_old_mut().name, b"././@LongLink");
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64 + 1);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_cksum();
        self.builder.append(&header, [bytes, b"\0"].concat().as_slice()).map_err(failed)
    }
}

/// Bytes that a header holds of a path, and of a link's target.
const NAME_BYTES: usize = 100;

/// Puts a path into its field, or the beginning of one that is too long. By hand: what the library calls a path it changes.
fn put(field: &mut [u8; NAME_BYTES], path: &[u8]) {
    // a reader that knows the extension does not look at what is cut off, others had better see an end
    let length = if path.len() > NAME_BYTES { NAME_BYTES - 1 } else { path.len() };
    field.fill(0);
    field[..length].copy_from_slice(&path[..length]);
}

fn add_to_zip<W: Write + Seek>(
    zip: &mut zip::ZipWriter<W>,
    reader: &BlobReader,
    path: &[u8],
    entry: &Entry,
) -> Result<()> {
    let zip_failed = |error: zip::result::ZipError| failed(error.into());
    // zip's names are text
    let name = String::from_utf8(path.to_vec()).unwrap_or_else(|_| escape_path(path));
    let time = entry.mtime.to_jiff().to_zoned(jiff::tz::TimeZone::UTC).datetime();
    let mut options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .unix_permissions(entry.mode)
        .large_file(entry.size > u64::from(u32::MAX));
    if let Ok(time) = zip::DateTime::try_from(time) {
        options = options.last_modified_time(time);
    }
    match entry.kind {
        EntryKind::Directory => zip.add_directory(name, options).map_err(zip_failed),
        EntryKind::Symlink => {
            let target = String::from_utf8(entry.link_target.clone()).map_err(|_| Error::NotInArchive {
                path: escape_path(path),
                why: "in a zip archive the target of a link must be UTF-8",
            })?;
            zip.add_symlink(name, target, options).map_err(zip_failed)
        }
        EntryKind::File => {
            zip.start_file(name.clone(), options).map_err(zip_failed)?;
            write_content(reader, entry, &name, zip)
        }
        // zip has no pipes, sockets or devices
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use lakebed_core::codec::compress::FrameContent;
    use lakebed_core::record::tree::{Content, write_directory};

    use super::*;
    use crate::query::root_entry;
    use crate::repository::FrameBuilder;
    use crate::repository::testing::reader_of;

    /// Stores a folder of files with these contents, and of other entries, and returns a reader and its entry.
    fn stored(files: &[(&str, &str)], others: Vec<Entry>) -> (BlobReader, Entry) {
        let (reader, root) = reader_of(|store| {
            let mut frame = FrameBuilder::new(FrameContent::SmallFiles);
            let mut entries = others;
            for (name, content) in files {
                let id = store.chunk_id(content.as_bytes());
                frame.push(id.into(), content.as_bytes());
                let mut entry = Entry::new(*name, EntryKind::File);
                (entry.size, entry.content) = (content.len() as u64, Content::Chunk(id));
                (entry.inode, entry.hard_link_device) = (7, Some(1));
                entries.push(entry);
            }
            if !frame.is_empty() {
                store.store_frame(&frame).unwrap();
            }
            write_directory(entries, &mut store.node_sink()).unwrap()
        });
        (reader, root_entry(root))
    }

    fn archive(reader: &BlobReader, top: &Entry, format: ArchiveFormat) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        write_archive(reader, top, format, &mut bytes).map(|()| bytes)
    }

    /// A file that changed between two looks at it has two contents in the snapshot, one for each name.
    #[test]
    fn names_of_one_file_with_different_contents_are_not_linked() {
        let (reader, top) = stored(&[("a", "before"), ("b", "after"), ("c", "after")], Vec::new());
        let bytes = archive(&reader, &top, ArchiveFormat::Tar).unwrap();
        let mut found = Vec::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            let mut content = String::new();
            std::io::Read::read_to_string(&mut entry, &mut content).unwrap();
            found.push((entry.path().unwrap().display().to_string(), link, content));
        }
        let file = |name: &str, content: &str| (name.to_owned(), None, content.to_owned());
        assert_eq!(found, [file("a", "before"), file("b", "after"), ("c".into(), Some("b".into()), String::new())]);
    }

    /// Of all kinds, with dots and bytes that are no text in all places, and of all lengths about the limit.
    #[test]
    fn paths_and_targets_come_back_as_they_are() {
        use std::os::unix::ffi::OsStrExt;

        for length in [1, 80, 90, 91, 92, 93, 94, 95, 99, 100, 101, 200] {
            let folder = [b"\xe9".as_slice(), &vec![b'x'; length]].concat();
            let (mut link, pipe, below) = (
                Entry::new("link", EntryKind::Symlink),
                Entry::new("..pipe", EntryKind::Fifo),
                Entry::new("folder", EntryKind::Directory),
            );
            link.link_target = [b"//host/./x//..".as_slice(), &vec![b'y'; length]].concat();
            let target = link.link_target.clone();
            let (reader, root) = reader_of(|store| {
                let empty = write_directory(Vec::new(), &mut store.node_sink()).unwrap();
                let below = Entry { subtree: Some(empty), ..below };
                let mut entries = vec![link, pipe, below, Entry::new("..data", EntryKind::File)];
                entries.sort_by(|one, other| one.name.cmp(&other.name));
                write_directory(entries, &mut store.node_sink()).unwrap()
            });
            let top = Entry { name: folder.clone(), ..root_entry(root) };
            let bytes = archive(&reader, &top, ArchiveFormat::Tar).unwrap();
            let mut found = Vec::new();
            for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
                let entry = entry.unwrap();
                found.push(entry.path_bytes().into_owned());
                if entry.header().entry_type() == tar::EntryType::Symlink {
                    let name = entry.link_name().unwrap().unwrap();
                    assert_eq!(name.as_os_str().as_bytes(), target);
                }
            }
            let path = |name: &[u8]| [&folder[..], b"/", name].concat();
            assert_eq!(found, [path(b""), path(b"..data"), path(b"..pipe"), path(b"folder/"), path(b"link")]);
        }
    }

    #[test]
    fn what_a_zip_archive_would_change_is_an_error() {
        let mut link = Entry::new("link", EntryKind::Symlink);
        link.link_target = b"\xe9t\xe9".to_vec();
        let (reader, top) = stored(&[], vec![link]);
        assert!(archive(&reader, &top, ArchiveFormat::Tar).is_ok());
        let error = archive(&reader, &top, ArchiveFormat::Zip).unwrap_err();
        assert!(matches!(&error, Error::NotInArchive { path, .. } if path == "link"), "{error:?}");
    }
}
