//! A source that is one file, read once from a stream: standard input, or what a command prints.

use std::io::Read;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{Fingerprint, Source, SourceDir, SourceError, SourceErrorKind, SourceFile};
use lakebed_core::time::Timestamp;

/// Says at the end of a stream whether what came was everything (whether a command succeeded, say).
pub type Finish = Box<dyn FnOnce() -> Result<(), std::io::Error> + Send>;

/// One file whose bytes come from a stream.
///
/// Its size is not known before the end: the entry has size 0 until whoever reads it sets it. The content can be read
/// only once, so nothing can be tried again.
pub struct ReaderSource {
    uri: String,
    name: Vec<u8>,
    time: Timestamp,
    stream: Mutex<Option<Stream>>,
}

struct Stream {
    reader: Box<dyn Read + Send>,
    finish: Option<Finish>,
}

impl std::fmt::Debug for ReaderSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReaderSource").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl ReaderSource {
    /// Builds a source of one file called `name`, last changed at `time`.
    ///
    /// `uri` is kept in the snapshot and must hold no secrets. `finish` is called once, when the stream has ended; its
    /// error becomes the error of the file. It is not called where the stream fails or is dropped before its end.
    pub fn new(
        uri: impl Into<String>,
        name: impl Into<Vec<u8>>,
        time: Timestamp,
        reader: Box<dyn Read + Send>,
        finish: Option<Finish>,
    ) -> Self {
        let stream = Mutex::new(Some(Stream { reader, finish }));
        Self { uri: uri.into(), name: name.into(), time, stream }
    }
}

impl Source for ReaderSource {
    fn uri(&self) -> String {
        self.uri.clone()
    }

    fn root(&self) -> Result<Entry, SourceError> {
        let mut entry = Entry::new(self.name.clone(), EntryKind::File);
        entry.mode = 0o600;
        entry.uid = rustix::process::geteuid().as_raw();
        entry.gid = rustix::process::getegid().as_raw();
        entry.mtime = self.time;
        entry.ctime = self.time;
        Ok(entry)
    }

    fn open_dir(&self, _path: &[Vec<u8>], _expected: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        let source = std::io::Error::new(std::io::ErrorKind::NotADirectory, "a stream is one file");
        Err(SourceError::new("list", super::local::display_path(&self.name), source))
    }

    /// Opens the stream. This works once.
    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        let shown = super::local::display_path(&self.name);
        // the lock is held for a `take` only, so what a panic elsewhere left behind is whole
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(stream) = stream else {
            let source = std::io::Error::other("it is a stream and was opened before");
            return Err(SourceError::new("open", shown, source));
        };
        Ok(Box::new(ReaderFile { stream, shown, time: self.time, position: 0, state: State::Open }))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed,
}

struct ReaderFile {
    stream: Stream,
    shown: String,
    time: Timestamp,
    position: u64,
    state: State,
}

impl ReaderFile {
    fn fail(&mut self, source: std::io::Error) -> SourceError {
        self.state = State::Failed;
        // whatever the command or the pipe says, this is no file that went away
        SourceError { kind: SourceErrorKind::Other, operation: "read", path: self.shown.clone(), source }
    }

    fn end(&mut self) -> Result<usize, SourceError> {
        match self.stream.finish.take().map_or(Ok(()), |finish| finish()) {
            Ok(()) => {
                self.state = State::Ended;
                Ok(0)
            }
            Err(error) => Err(self.fail(error)),
        }
    }
}

impl SourceFile for ReaderFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        match self.state {
            State::Open if buffer.is_empty() => return Ok(0),
            State::Open => {}
            State::Ended => return Ok(0),
            // an error must not look like an end to one who asks again
            State::Failed => return Err(self.fail(std::io::Error::other("it failed before"))),
        }
        loop {
            match self.stream.reader.read(buffer) {
                Ok(0) => return self.end(),
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fail(error)),
            }
        }
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>, SourceError> {
        if offset != self.position {
            return Err(self.fail(std::io::Error::other("a stream can only be read from front to back")));
        }
        Ok((self.state != State::Ended).then_some(offset..u64::MAX))
    }

    /// Returns always the same: nobody can change a stream behind our back.
    fn fingerprint(&mut self) -> Result<Fingerprint, SourceError> {
        Ok(Fingerprint { size: 0, mtime: self.time, ctime: self.time, inode: 0 })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const TIME: Timestamp = Timestamp { secs: 1_000, nanos: 5 };

    fn source(reader: impl Read + Send + 'static, finish: Option<Finish>) -> ReaderSource {
        ReaderSource::new("stdin:dump.sql", "dump.sql", TIME, Box::new(reader), finish)
    }

    /// Gives one byte at a time, with an interruption before each.
    struct Slow(&'static [u8], bool);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.1 = !self.1;
            match self.1 {
                true => Err(std::io::ErrorKind::Interrupted.into()),
                false => {
                    let length = buffer.len().min(1);
                    self.0.read(&mut buffer[..length])
                }
            }
        }
    }

    #[test]
    fn a_stream_is_read_once() {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let finish: Finish = Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let source = source(Slow(b"abc", false), Some(finish));
        let root = source.root().unwrap();
        assert_eq!((root.name.as_slice(), root.kind, root.mode), (b"dump.sql".as_slice(), EntryKind::File, 0o600));
        assert_eq!((root.mtime, root.ctime, root.size), (TIME, TIME, 0));
        assert_eq!(source.uri(), "stdin:dump.sql");

        let mut file = source.open_root().unwrap();
        let before = file.fingerprint().unwrap();
        assert_eq!(file.next_data(0).unwrap(), Some(0..u64::MAX));
        let (mut bytes, mut buffer) = (Vec::new(), [0; 16]);
        assert_eq!(file.read(&mut []).unwrap(), 0);
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => break,
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
        assert_eq!(bytes, b"abc");
        assert_eq!(file.read(&mut buffer).unwrap(), 0);
        assert_eq!(file.next_data(3).unwrap(), None);
        assert_eq!(file.fingerprint().unwrap(), before);
        assert_eq!(calls.load(Ordering::Relaxed), 1);

        let again = source.open_root().err().unwrap();
        assert_eq!((again.kind, again.to_string()), (SourceErrorKind::Other, "Cannot open `dump.sql`".to_owned()));
        assert!(source.open_dir(&[], &root).is_err());
    }

    #[test]
    fn a_command_that_fails_is_an_error_and_stays_one() {
        let finish: Finish = Box::new(|| Err(std::io::ErrorKind::NotFound.into()));
        let source = source(b"half".as_slice(), Some(finish));
        let mut file = source.open_root().unwrap();
        let mut buffer = [0; 16];
        assert_eq!(file.read(&mut buffer).unwrap(), 4);
        let error = file.read(&mut buffer).unwrap_err();
        assert_eq!((error.kind, error.operation), (SourceErrorKind::Other, "read"));
        assert!(file.read(&mut buffer).is_err());
    }

    #[test]
    fn a_stream_that_breaks_is_not_finished() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
        }
        let source = source(Broken, Some(Box::new(|| panic!("the stream has not ended"))));
        let mut file = source.open_root().unwrap();
        assert!(file.read(&mut [0; 4]).is_err());
        assert!(file.read(&mut [0; 4]).is_err());
    }

    #[test]
    fn a_stream_cannot_be_wound_back() {
        let source = source(b"abc".as_slice(), None);
        let mut file = source.open_root().unwrap();
        assert_eq!(file.read(&mut [0; 2]).unwrap(), 2);
        assert!(file.next_data(0).is_err());
    }
}
