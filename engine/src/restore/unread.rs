//! What the snapshot may lack only because its backup could not read it, or did not look there.

use std::collections::BTreeSet;

use lakebed_core::record::snapshot::Snapshot;
use lakebed_core::text::unescape_path;

/// What a backup had of its sources, for whoever would delete what its snapshot does not have.
#[derive(Debug)]
pub(super) struct Unread {
    /// The paths that the snapshot's failures name. Whether anything was there when the snapshot was made is not known.
    failures: BTreeSet<Vec<u8>>,
    /// Paths of the sources. The directories above them were not listed.
    sources: Vec<Vec<u8>>,
}

impl Unread {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        // a path that cannot be read may be any: then nothing is known of the whole snapshot, as with an empty one
        let failures =
            snapshot.failures.iter().map(|failure| unescape_path(&failure.path).unwrap_or_default()).collect();
        let sources = snapshot.sources.iter().filter_map(|source| unescape_path(&source.path)).collect();
        Self { failures, sources }
    }

    /// Tells whether the backup listed a directory: it is a source, or lies in one.
    pub(super) fn was_listed(&self, directory: &[u8]) -> bool {
        self.is_source(directory) || self.lies_in_source(directory)
    }

    /// Tells whether a path lies in a source, and is none itself.
    pub(super) fn lies_in_source(&self, path: &[u8]) -> bool {
        let lies_in = |source: &Vec<u8>| match path.strip_prefix(source.as_slice()) {
            Some(below) => {
                if source.is_empty() {
                    !below.is_empty()
                } else {
                    below.first() == Some(&b'/')
                }
            }
            None => false,
        };
        !self.is_source(path) && self.sources.iter().any(lies_in)
    }

    fn is_source(&self, path: &[u8]) -> bool {
        self.sources.iter().any(|source| source == path)
    }

    /// Tells whether a path that could not be read is this one, or lies below or above it.
    pub(super) fn concerns(&self, path: &[u8]) -> bool {
        if self.failures.is_empty() {
            return false;
        }
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut ends = [0, path.len()].into_iter().chain(slashes);
        ends.any(|end| self.failures.contains(&path[..end])) || {
            let below = [path, b"/"].concat();
            self.failures.range(below.clone()..).next().is_some_and(|first| first.starts_with(&below))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unread(paths: &[&str]) -> Unread {
        let failures = paths.iter().map(|path| unescape_path(path).unwrap_or_default()).collect();
        Unread { failures, sources: vec![b"data/lake".to_vec()] }
    }

    #[test]
    fn only_a_source_and_what_lies_in_it_was_listed() {
        let unread = unread(&[]);
        assert!(unread.was_listed(b"data/lake") && unread.was_listed(b"data/lake/sales"));
        assert!(!unread.was_listed(b"") && !unread.was_listed(b"data") && !unread.was_listed(b"data/lakes"));
        assert!(unread.lies_in_source(b"data/lake/sales") && !unread.lies_in_source(b"data/lakes"));
        assert!(!unread.lies_in_source(b"data/lake") && !unread.lies_in_source(b"data"));
        let all = Unread { sources: vec![Vec::new()], ..unread };
        assert!(all.was_listed(b"any") && all.was_listed(b""));
        assert!(all.lies_in_source(b"any") && !all.lies_in_source(b""));
    }

    #[test]
    fn a_path_concerns_what_lies_below_and_above_it() {
        let some = unread(&["a/b", "a.txt", "odd\\x0a\\\\name"]);
        for path in ["a", "a/b", "a/b/c", "a/b/c/d", "a.txt", "odd\n\\name"] {
            assert!(some.concerns(path.as_bytes()), "{path}");
        }
        for path in ["a/bc", "a/c", "b", "a.tx", "a.txt2", "odd"] {
            assert!(!some.concerns(path.as_bytes()), "{path}");
        }
        assert!(!unread(&[]).concerns(b"a"));
    }

    #[test]
    fn where_the_path_is_not_known_it_may_be_any() {
        for path in ["", "\\q"] {
            assert!(unread(&[path]).concerns(b"a/b"), "{path:?}");
        }
    }
}
