//! What the snapshot may lack only because its backup could not read it.

use std::collections::BTreeSet;

use lakebed_core::record::snapshot::Failure;
use lakebed_core::text::unescape_path;

/// The paths that a snapshot's failures name. Whether anything was there when the snapshot was made is not known.
#[derive(Debug)]
pub(super) struct Unread(BTreeSet<Vec<u8>>);

impl Unread {
    pub(super) fn of(failures: &[Failure]) -> Self {
        // a path that cannot be read may be any: then nothing is known of the whole snapshot, as with an empty one
        Self(failures.iter().map(|failure| unescape_path(&failure.path).unwrap_or_default()).collect())
    }

    /// Tells whether such a path is this one, or lies below or above it.
    pub(super) fn concerns(&self, path: &[u8]) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut ends = [0, path.len()].into_iter().chain(slashes);
        ends.any(|end| self.0.contains(&path[..end])) || {
            let below = [path, b"/"].concat();
            self.0.range(below.clone()..).next().is_some_and(|first| first.starts_with(&below))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unread(paths: &[&str]) -> Unread {
        let failure = |path: &&str| Failure { path: (*path).into(), reason: "gone".into() };
        Unread::of(&paths.iter().map(failure).collect::<Vec<_>>())
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
