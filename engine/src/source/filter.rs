//! What is left out of a snapshot: patterns as in `.gitignore`, marker files, a limit for sizes.
//!
//! Paths are matched as they are in the snapshot (`src/a/b` for a source that is mounted at `src`), so a pattern with a
//! leading `/` is anchored at the snapshot's root. A filter judges one path at a time: what lies below a directory that
//! is left out is never asked for, and cannot be taken back in by a `!` pattern, as in git.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Name of the file that marks a cache directory, see <https://bford.info/cachedir/>.
const CACHE_TAG_NAME: &[u8] = b"CACHEDIR.TAG";
/// How such a file begins.
const CACHE_TAG_HEADER: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// What is to be left out. The default leaves out nothing.
///
/// Of all patterns that match a path the last one decides, in this order: `exclude_files`, `exclude`, `iexclude`.
#[derive(Debug, Clone, Default)]
pub struct FilterOptions {
    /// Patterns as in `.gitignore`; `!` takes back in what an earlier pattern left out.
    pub exclude: Vec<String>,
    /// The same, with upper and lower case of ASCII letters taken as one.
    pub iexclude: Vec<String>,
    /// Files of patterns, one a line; `#` begins a comment.
    pub exclude_files: Vec<PathBuf>,
    /// `NAME` or `NAME:HEADER`. A directory that holds a file of that name, beginning with that header, is kept without
    /// what is in it, the marker aside.
    pub exclude_if_present: Vec<String>,
    /// The same for directories that are marked as caches by a `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Files with more bytes than this are left out.
    pub exclude_larger_than: Option<u64>,
    /// Directories on another file system than the source's root are kept without what is in them.
    pub one_file_system: bool,
}

/// Why a filter cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// A pattern that cannot be understood.
    #[error("Exclude pattern `{pattern}` is not valid: {reason}")]
    Pattern {
        /// The pattern as it was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A line of a file that cannot be understood.
    #[error("Exclude pattern `{pattern}` is not valid ({}, line {line}): {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// The pattern, with what is not UTF-8 replaced.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of patterns that cannot be read.
    #[error("Cannot read exclude file `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A marker that no file can be.
    #[error("Marker `{marker}` is not valid: expected NAME or NAME:HEADER, where NAME is the name of a file")]
    Marker {
        /// The marker as it was given.
        marker: String,
    },
    /// Patterns that are valid one by one and too much together.
    #[error("Cannot use the exclude patterns together: {reason}")]
    Together {
        /// What is wrong.
        reason: String,
    },
}

/// A file that says: leave out what lies beside me.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Name of the file.
    pub name: Vec<u8>,
    /// How its content begins; where this is empty, any content will do.
    pub header: Vec<u8>,
}

/// Tells what is left out. Built once, asked from any thread.
#[derive(Debug)]
pub struct Filter {
    patterns: Gitignore,
    markers: Vec<Marker>,
    larger_than: Option<u64>,
    one_file_system: bool,
}

impl Filter {
    /// Builds a filter and reads the files that the options name.
    ///
    /// # Errors
    /// A file that cannot be read, a pattern or a marker that is not valid.
    pub fn new(options: &FilterOptions) -> Result<Self, FilterError> {
        let mut builder = GitignoreBuilder::new("");
        // a class that is never closed is a slip of the hand: better refused than matched as text
        builder.allow_unclosed_class(false);
        for path in &options.exclude_files {
            add_file(&mut builder, path)?;
        }
        for (patterns, ignores_case) in [(&options.exclude, false), (&options.iexclude, true)] {
            set_ignores_case(&mut builder, ignores_case)?;
            for pattern in patterns {
                add_argument(&mut builder, pattern)?;
            }
        }
        let patterns = builder.build().map_err(together)?;
        let mut markers =
            options.exclude_if_present.iter().map(|text| parse_marker(text)).collect::<Result<Vec<_>, _>>()?;
        if options.exclude_caches {
            markers.push(Marker { name: CACHE_TAG_NAME.to_vec(), header: CACHE_TAG_HEADER.to_vec() });
        }
        Ok(Self {
            patterns,
            markers,
            larger_than: options.exclude_larger_than,
            one_file_system: options.one_file_system,
        })
    }

    /// Tells whether there are patterns at all. Without any, paths need not be put together.
    pub fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Tells whether a pattern leaves this path out. What its parents are told is not looked at.
    pub fn excludes(&self, tree_path: &[u8], is_dir: bool) -> bool {
        self.has_patterns() && self.patterns.matched(Path::new(OsStr::from_bytes(tree_path)), is_dir).is_ignore()
    }

    /// Tells whether a file of this size is left out.
    pub fn excludes_size(&self, size_bytes: u64) -> bool {
        self.larger_than.is_some_and(|limit| size_bytes > limit)
    }

    /// Returns the files that mark a directory whose contents are left out.
    pub fn markers(&self) -> &[Marker] {
        &self.markers
    }

    /// Tells whether other file systems than the root's are left out.
    pub fn one_file_system(&self) -> bool {
        self.one_file_system
    }
}

fn together(error: ignore::Error) -> FilterError {
    FilterError::Together { reason: reason(error) }
}

fn set_ignores_case(builder: &mut GitignoreBuilder, ignores_case: bool) -> Result<(), FilterError> {
    builder.case_insensitive(ignores_case).map(|_| ()).map_err(together)
}

/// What is wrong, without the pattern, which our own message has already.
fn reason(error: ignore::Error) -> String {
    match error {
        ignore::Error::Glob { err, .. } => err,
        other => other.to_string(),
    }
}

/// Refuses what the builder takes and nothing can match.
fn check(pattern: &str) -> Result<(), String> {
    let rest = pattern.strip_prefix('!').unwrap_or(pattern).trim_end();
    match !pattern.trim_end().is_empty() && rest.bytes().all(|c| c == b'/') {
        true => Err("it names nothing".to_owned()),
        false => Ok(()),
    }
}

fn add(builder: &mut GitignoreBuilder, line: &str) -> Result<(), String> {
    check(line)?;
    builder.add_line(None, line).map(|_| ()).map_err(reason)
}

fn add_argument(builder: &mut GitignoreBuilder, pattern: &str) -> Result<(), FilterError> {
    // nobody puts a comment into an argument: what looks like one is a name
    let result = match pattern.starts_with('#') {
        true => add(builder, &format!("\\{pattern}")),
        false => add(builder, pattern),
    };
    result.map_err(|reason| FilterError::Pattern { pattern: pattern.to_owned(), reason })
}

fn add_file(builder: &mut GitignoreBuilder, path: &Path) -> Result<(), FilterError> {
    let bytes = std::fs::read(path).map_err(|source| FilterError::File { path: path.to_owned(), source })?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    for (index, line) in text.split(|&c| c == b'\n').enumerate() {
        let result = match std::str::from_utf8(line) {
            Ok(line) => add(builder, line.strip_suffix('\r').unwrap_or(line)),
            // a comment may be in whatever encoding its writer had
            Err(_) if line.starts_with(b"#") => Ok(()),
            Err(_) => Err("it is not UTF-8 (`?` matches any one byte)".to_owned()),
        };
        result.map_err(|reason| FilterError::Line {
            path: path.to_owned(),
            line: index + 1,
            pattern: String::from_utf8_lossy(line).trim_end().to_owned(),
            reason,
        })?;
    }
    Ok(())
}

fn parse_marker(text: &str) -> Result<Marker, FilterError> {
    let (name, header) = text.split_once(':').unwrap_or((text, ""));
    if name.contains('/') || name.contains('\0') || matches!(name, "" | "." | "..") {
        return Err(FilterError::Marker { marker: text.to_owned() });
    }
    Ok(Marker { name: name.into(), header: header.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(exclude: &[&str]) -> Filter {
        let exclude = exclude.iter().map(|&pattern| pattern.to_owned()).collect();
        Filter::new(&FilterOptions { exclude, ..FilterOptions::default() }).unwrap()
    }

    #[test]
    fn patterns_match_as_in_gitignore() {
        #[rustfmt::skip]
        let cases: &[(&[&str], &[u8], bool, bool)] = &[
            (&["*.tmp"],            b"a.tmp",               false, true),
            (&["*.tmp"],            b"src/deep/a.tmp",      false, true),
            (&["*.tmp"],            b"src/a.tmp.txt",       false, false),
            (&["build"],            b"src/build",           true,  true),
            (&["build"],            b"src/rebuild",         true,  false),
            (&["build/"],           b"src/build",           true,  true),
            (&["build/"],           b"src/build",           false, false),
            (&["/build"],           b"build",               true,  true),
            (&["/build"],           b"src/build",           true,  false),
            (&["/src/build"],       b"src/build",           true,  true),
            (&["src/build"],        b"src/build",           true,  true),
            (&["src/build"],        b"other/src/build",     true,  false),
            (&["src/*.o"],          b"src/a.o",             false, true),
            (&["src/*.o"],          b"src/b/a.o",           false, false),
            (&["src/**/a.o"],       b"src/b/c/a.o",         false, true),
            (&["**/c/a.o"],         b"src/b/c/a.o",         false, true),
            (&["src/**"],           b"src/a",               false, true),
            (&["src/**"],           b"src",                 true,  false),
            (&["*.log", "!keep.log"], b"x/keep.log",        false, false),
            (&["*.log", "!keep.log"], b"x/other.log",       false, true),
            (&["!keep.log", "*.log"], b"x/keep.log",        false, true),
            (&["[ab]?.txt"],        b"a1.txt",              false, true),
            (&["[!ab]?.txt"],       b"a1.txt",              false, false),
            (&["#name"],            b"x/#name",             false, true),
            (&["\\#name"],          b"x/#name",             false, true),
            (&["\\!name"],          b"x/!name",             false, true),
            (&["a\\*"],             b"a*",                  false, true),
            (&["a\\*"],             b"ab",                  false, false),
            (&["caf\u{e9}"],        "x/caf\u{e9}".as_bytes(), false, true),
            (&["*.tmp"],            b"x/\xff\xfe.tmp",      false, true),
            (&["caf?"],             b"caf\xe9",             false, true),
            (&["x"],                b"\xff/x",              false, true),
            (&[],                   b"anything",            false, false),
            (&["", "  "],           b"anything",            false, false),
        ];
        for (patterns, path, is_dir, excluded) in cases {
            let got = filter(patterns).excludes(path, *is_dir);
            assert_eq!(got, *excluded, "{patterns:?} on {}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn case_is_ignored_only_where_asked() {
        let options =
            FilterOptions { iexclude: vec!["*.JPG".into()], exclude: vec!["*.png".into()], ..Default::default() };
        let filter = Filter::new(&options).unwrap();
        assert!(filter.excludes(b"a/b.jpg", false));
        assert!(filter.excludes(b"a/b.Jpg", false));
        assert!(filter.excludes(b"a/b.png", false));
        assert!(!filter.excludes(b"a/b.PNG", false));
    }

    #[test]
    fn files_are_read_and_arguments_win_over_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("patterns");
        std::fs::write(&path, b"\xef\xbb\xbf# what we do not want\n# \xe9\n\n*.o\r\n!b.o\n*.bak\n").unwrap();
        let options = FilterOptions { exclude_files: vec![path], exclude: vec!["!a.bak".into()], ..Default::default() };
        let filter = Filter::new(&options).unwrap();
        assert!(filter.excludes(b"x/a.o", false));
        assert!(!filter.excludes(b"x/b.o", false));
        assert!(filter.excludes(b"x/b.bak", false));
        assert!(!filter.excludes(b"x/a.bak", false));
        assert!(!filter.excludes(b"# what we do not want", false));
    }

    #[test]
    fn errors_name_the_pattern_and_the_file() {
        let error = |options: FilterOptions| Filter::new(&options).unwrap_err().to_string();
        let exclude = |pattern: &str| FilterOptions { exclude: vec![pattern.into()], ..Default::default() };
        assert!(error(exclude("a[b")).starts_with("Exclude pattern `a[b` is not valid: unclosed character class"));
        assert!(error(exclude("a\\")).starts_with("Exclude pattern `a\\` is not valid: "));
        for nothing in ["!", "/", "!/", "! "] {
            assert_eq!(error(exclude(nothing)), format!("Exclude pattern `{nothing}` is not valid: it names nothing"));
        }

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("patterns");
        std::fs::write(&path, b"fine\ncaf\xe9\n").unwrap();
        let options = FilterOptions { exclude_files: vec![path.clone()], ..Default::default() };
        let shown = format!(
            "Exclude pattern `caf\u{fffd}` is not valid ({}, line 2): it is not UTF-8 (`?` matches any one byte)",
            path.display()
        );
        assert_eq!(error(options), shown);

        let path = dir.path().join("missing");
        let options = FilterOptions { exclude_files: vec![path.clone()], ..Default::default() };
        assert_eq!(error(options), format!("Cannot read exclude file `{}`", path.display()));
    }

    #[test]
    fn markers_have_a_name_and_perhaps_a_header() {
        let options = |marker: &str| FilterOptions { exclude_if_present: vec![marker.into()], ..Default::default() };
        let marker = |text: &str| Filter::new(&options(text)).unwrap().markers()[0].clone();
        assert_eq!(marker(".nobackup"), Marker { name: b".nobackup".to_vec(), header: Vec::new() });
        assert_eq!(marker("tag:a: b"), Marker { name: b"tag".to_vec(), header: b"a: b".to_vec() });
        for wrong in ["", ":x", "a/b", "..", "."] {
            assert!(matches!(Filter::new(&options(wrong)), Err(FilterError::Marker { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_limited_only_where_asked() {
        let filter = Filter::new(&FilterOptions { exclude_larger_than: Some(10), ..Default::default() }).unwrap();
        assert!(!filter.excludes_size(10));
        assert!(filter.excludes_size(11));
        assert!(!super::Filter::new(&FilterOptions::default()).unwrap().excludes_size(u64::MAX));
    }
}
