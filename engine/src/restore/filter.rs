//! What is restored.

use std::collections::BTreeSet;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// Which paths of a snapshot are wanted. Empty lists ask for everything.
#[derive(Debug, Clone, Default)]
pub struct PathFilter {
    paths: Vec<Vec<Vec<u8>>>,
    /// Where the includes begin: names up to the first one that may stand for others. `None` if one may match anywhere.
    beginnings: Option<Vec<Vec<Vec<u8>>>>,
    include: Option<GlobSet>,
    exclude: Option<GlobSet>,
}

/// What the filter says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It is restored.
    Yes,
    /// It is a directory on the way to something wanted: looked into, and made where something in it is restored.
    Way,
    /// It is not.
    No,
}

fn globs(patterns: &[String]) -> Result<Option<GlobSet>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let failed = |error: globset::Error| Error::Argument {
            what: "The pattern",
            value: pattern.clone(),
            why: error.kind().to_string(),
        };
        let trimmed = pattern.trim_matches('/');
        // a pattern without a slash is matched against names, and what lies below a match matches
        let anchored = if pattern.trim_end_matches('/').contains('/') { "" } else { "**/" };
        for suffix in ["", "/**"] {
            let glob = GlobBuilder::new(&format!("{anchored}{trimmed}{suffix}")).literal_separator(true).build();
            set.add(glob.map_err(failed)?);
        }
    }
    set.build().map(Some).map_err(|error| Error::Argument {
        what: "The patterns",
        value: patterns.join(" "),
        why: error.kind().to_string(),
    })
}

/// Returns the names that everything which the pattern matches begins with; `None` where it may match anywhere.
fn beginning(pattern: &str) -> Option<Vec<Vec<u8>>> {
    // as in `globs`: only one with a slash is anchored
    if !pattern.trim_end_matches('/').contains('/') {
        return None;
    }
    let names = pattern.trim_matches('/').split('/');
    let literal = names.take_while(|name| !name.is_empty() && !name.contains(['*', '?', '[', ']', '{', '}', '\\']));
    let names: Vec<Vec<u8>> = literal.map(|name| name.as_bytes().to_vec()).collect();
    (!names.is_empty()).then_some(names)
}

impl PathFilter {
    /// Builds a filter of paths (with all below them), of globs of which one must match, and of globs of which none may.
    ///
    /// # Errors
    /// A path with `..`, or a glob that is none.
    pub fn new(paths: &[Vec<u8>], include: &[String], exclude: &[String]) -> Result<Self> {
        let paths = paths.iter().map(|path| crate::query::split_path(path)).collect::<Result<_>>()?;
        let beginnings: Option<Vec<_>> = include.iter().map(|pattern| beginning(pattern)).collect();
        let beginnings = beginnings.filter(|all| !all.is_empty());
        Ok(Self { paths, beginnings, include: globs(include)?, exclude: globs(exclude)? })
    }

    /// Returns the paths that were asked for.
    pub fn paths(&self) -> &[Vec<Vec<u8>>] {
        &self.paths
    }

    /// Returns the names of which alone something can be wanted in a directory; `None` where any can.
    pub(super) fn names_in(&self, directory: &[u8]) -> Option<BTreeSet<Vec<u8>>> {
        let at: Vec<&[u8]> = directory.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
        let below = |all: &[Vec<Vec<u8>>]| -> Option<BTreeSet<Vec<u8>>> {
            let leads_here = |path: &&Vec<Vec<u8>>| path.iter().zip(&at).all(|(a, b)| a == b);
            all.iter().filter(leads_here).map(|path| path.get(at.len()).cloned()).collect()
        };
        let by_path = if self.paths.is_empty() { None } else { below(&self.paths) };
        match (by_path, self.beginnings.as_deref().and_then(below)) {
            (Some(a), Some(b)) => Some(a.intersection(&b).cloned().collect()),
            (a, b) => a.or(b),
        }
    }

    pub(super) fn wants(&self, path: &[u8], is_directory: bool) -> Wanted {
        use std::os::unix::ffi::OsStrExt;
        let os = std::ffi::OsStr::from_bytes(path);
        if self.exclude.as_ref().is_some_and(|globs| globs.is_match(os)) {
            return Wanted::No;
        }
        let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        let starts_with = |long: &[&[u8]], short: &[Vec<u8>]| {
            long.len() >= short.len() && long.iter().zip(short).all(|(a, b)| *a == b.as_slice())
        };
        let under = self.paths.is_empty() || self.paths.iter().any(|wanted| starts_with(&names, wanted));
        let on_the_way = is_directory
            && self
                .paths
                .iter()
                .any(|wanted| wanted.len() > names.len() && wanted.iter().zip(&names).all(|(a, b)| a.as_slice() == *b));
        if !under {
            return if on_the_way { Wanted::Way } else { Wanted::No };
        }
        match &self.include {
            None => Wanted::Yes,
            Some(globs) if globs.is_match(os) => Wanted::Yes,
            Some(_) if is_directory => Wanted::Way,
            Some(_) => Wanted::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(paths: &[&str], include: &[&str], exclude: &[&str]) -> PathFilter {
        let strings = |all: &[&str]| all.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        let paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        PathFilter::new(&paths, &strings(include), &strings(exclude)).unwrap()
    }

    #[test]
    fn paths_take_what_is_below_and_make_the_way() {
        let filter = filter(&["/a/b"], &[], &[]);
        assert_eq!(filter.wants(b"a", true), Wanted::Way);
        assert_eq!(filter.wants(b"a", false), Wanted::No);
        assert_eq!(filter.wants(b"a/b", false), Wanted::Yes);
        assert_eq!(filter.wants(b"a/b/c", false), Wanted::Yes);
        assert_eq!(filter.wants(b"a/bc", false), Wanted::No);
        assert!(PathFilter::new(&[b"../x".to_vec()], &[], &[]).is_err());
    }

    #[test]
    fn only_the_way_to_what_is_wanted_is_looked_at() {
        let names = |filter: &PathFilter, directory: &str| {
            let names = filter.names_in(directory.as_bytes())?;
            Some(names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>().join(" "))
        };
        let some = |text: &str| Some(text.to_owned());
        let paths = filter(&["a/b/c", "a/d", "e"], &[], &["x"]);
        assert_eq!(names(&paths, ""), some("a e"));
        assert_eq!(names(&paths, "a"), some("b d"));
        assert_eq!(names(&paths, "a/b"), some("c"));
        assert_eq!(names(&paths, "a/d"), None);
        assert_eq!(names(&paths, "e/f"), None);
        assert_eq!(names(&filter(&[], &["a/b", "b/"], &[]), ""), None, "`b/` may be anywhere");
        let globs = filter(&[], &["a/b*/c", "/a/x/y.py", "b/c/"], &[]);
        assert_eq!(names(&globs, ""), some("a b"));
        assert_eq!(names(&globs, "a"), None);
        assert_eq!(names(&globs, "b"), some("c"));
        assert_eq!(names(&globs, "b/c"), None);
        assert_eq!(names(&filter(&[], &["*.py"], &[]), ""), None);
        assert_eq!(names(&filter(&[], &["*/x"], &[]), ""), None);
        assert_eq!(names(&filter(&[], &[], &["a/b"]), ""), None);
        let both = filter(&["a"], &["a/b/*.py", "c/d"], &[]);
        assert_eq!(names(&both, ""), some("a"));
        assert_eq!(names(&both, "a"), some("b"));
        assert_eq!(names(&both, "a/b"), None);
    }

    #[test]
    fn globs_choose_names_or_paths() {
        let filter = filter(&[], &["*.py"], &["secret"]);
        assert_eq!(filter.wants(b"a/b/x.py", false), Wanted::Yes);
        assert_eq!(filter.wants(b"a/b/x.sql", false), Wanted::No);
        assert_eq!(filter.wants(b"a", true), Wanted::Way);
        assert_eq!(filter.wants(b"a/secret/x.py", false), Wanted::No);
        let anchored = self::filter(&[], &["a/*.py"], &[]);
        assert_eq!(anchored.wants(b"a/x.py", false), Wanted::Yes);
        assert_eq!(anchored.wants(b"b/a/x.py", false), Wanted::No);
        assert_eq!(anchored.wants(b"a/b/x.py", false), Wanted::No);
        assert!(PathFilter::new(&[], &["[".into()], &[]).is_err());
    }
}
