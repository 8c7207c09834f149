//! Arguments that say which snapshots are meant.

use clap::Args;
use lakebed_engine::core::text::unescape_path;
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::repository::{SnapshotFilter, SnapshotInfo, SnapshotSelector};
use lakebed_engine::source::{Filter, FilterError, FilterOptions};
use lakebed_engine::{Monitor, Repository};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::error::CliError;
use crate::time::{parse_first, parse_last};

/// Which snapshots a listing is about.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which snapshots")]
pub(crate) struct FilterArgs {
    /// Made on this host (repeat for others)
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// With all of these tags, separated by commas (repeat for others)
    #[arg(long, value_name = "TAG,...")]
    tag: Vec<String>,
    /// Made of this folder, as an absolute path or as it lies in the snapshot (repeat: all of them)
    #[arg(long, value_name = "PATH")]
    path: Vec<String>,
    /// Not before this time; a date begins at 00:00 local time
    #[arg(long, value_name = "TIME", value_parser = parse_first)]
    since: Option<Timestamp>,
    /// Not after this time; a date ends at 24:00 local time
    #[arg(long, value_name = "TIME", value_parser = parse_last)]
    until: Option<Timestamp>,
}

impl FilterArgs {
    /// Tells whether anything is asked for.
    pub(crate) fn is_given(&self) -> bool {
        self.filter() != SnapshotFilter::default()
    }

    /// Returns the filter.
    pub(crate) fn filter(&self) -> SnapshotFilter {
        SnapshotFilter {
            hosts: self.host.clone(),
            tags: groups(&self.tag),
            paths: self.path.clone(),
            since: self.since,
            until: self.until,
            shards: false,
        }
    }
}

/// Which one snapshot is meant, beside its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which snapshot")]
pub(crate) struct ChoiceArgs {
    /// The newest at or before this time, in the place of SNAPSHOT; a date means the end of that day
    #[arg(long, value_name = "TIME", value_parser = parse_last)]
    at: Option<Timestamp>,
    /// Choose among snapshots made on this host (repeat for others)
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// Choose among snapshots with all of these tags, separated by commas (repeat for others)
    #[arg(long, value_name = "TAG,...")]
    tag: Vec<String>,
}

impl ChoiceArgs {
    /// Tells whether a time stands in the place of a name.
    pub(crate) fn has_time(&self) -> bool {
        self.at.is_some()
    }

    /// Finds the snapshot.
    pub(crate) fn find(
        &self,
        repository: &Repository,
        name: Option<&str>,
        monitor: &dyn Monitor,
    ) -> Result<SnapshotInfo, CliError> {
        let selector = match (self.at, name) {
            (Some(time), _) => SnapshotSelector::At(time),
            (None, Some(name)) => selector(name)?,
            (None, None) => {
                let message =
                    "No snapshot was named: give `latest`, an id as `lakebed snapshots` lists it, or --at TIME";
                return Err(CliError::usage(message));
            }
        };
        let filter = SnapshotFilter { hosts: self.host.clone(), tags: groups(&self.tag), ..SnapshotFilter::default() };
        Ok(repository.find_snapshot(&selector, &filter, monitor)?)
    }
}

/// Reads the name of a snapshot: `latest`, the beginning of an id, or `@` and a time.
pub(crate) fn selector(name: &str) -> Result<SnapshotSelector, CliError> {
    if name == "latest" {
        return Ok(SnapshotSelector::Latest);
    }
    if let Some(time) = name.strip_prefix('@') {
        let time = parse_last(time).map_err(|why| CliError::usage(format!("Cannot read the time `{name}`: {why}")))?;
        return Ok(SnapshotSelector::At(time));
    }
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let message = format!("`{name}` names no snapshot: give `latest`, the beginning of an id, or `@TIME`");
        return Err(CliError::usage(message));
    }
    Ok(SnapshotSelector::Id(name.into()))
}

/// Finds the snapshots of those names among all, each as [`find`] does.
pub(crate) fn find_all(
    repository: &Repository,
    names: &[String],
    monitor: &dyn Monitor,
) -> Result<Vec<SnapshotInfo>, CliError> {
    let selectors = names.iter().map(|name| selector(name)).collect::<Result<Vec<_>, _>>()?;
    Ok(repository.find_snapshots(&selectors, &SnapshotFilter::default(), monitor)?)
}

/// Finds the snapshot of that name among all.
pub(crate) fn find(repository: &Repository, name: &str, monitor: &dyn Monitor) -> Result<SnapshotInfo, CliError> {
    Ok(repository.find_snapshot(&selector(name)?, &SnapshotFilter::default(), monitor)?)
}

/// Builds a filter of what is left out.
pub(crate) fn left_out(options: &FilterOptions) -> Result<Filter, CliError> {
    Filter::new(options).map_err(|error| match error {
        FilterError::File { .. } => CliError::failed("Cannot tell what is to be left out").caused_by(error),
        error => CliError::usage(error.to_string()),
    })
}

/// Splits groups of tags: all of a group are asked for, and one group is enough.
pub(crate) fn groups(tags: &[String]) -> Vec<Vec<String>> {
    tags.iter().map(|group| split_tags(group)).collect()
}

/// Splits tags at commas.
pub(crate) fn split_tags(tags: &str) -> Vec<String> {
    tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// Reads a path in a snapshot, with or without a slash before it. A path with a backslash is read as listings show it
/// (`\xff`, `\\`); one that no listing can have shown is taken as it is.
pub(crate) fn snapshot_path(given: &OsStr) -> Result<Vec<Vec<u8>>, CliError> {
    let bytes = given.to_str().and_then(unescape_path).unwrap_or_else(|| given.as_bytes().to_vec());
    Ok(lakebed_engine::query::split_path(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_named_in_three_ways() {
        assert_eq!(selector("latest").unwrap(), SnapshotSelector::Latest);
        assert_eq!(selector("3f9A").unwrap(), SnapshotSelector::Id("3f9A".into()));
        let time = Timestamp::new(1_794_880_800, 999_999_999).unwrap();
        assert_eq!(selector("@2026-11-17T02:00:00Z").unwrap(), SnapshotSelector::At(time));
        for wrong in ["", "newest", "@", "@yesterday", "3f9g"] {
            assert_eq!(selector(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn tags_come_in_groups() {
        assert_eq!(groups(&["a, b".into(), "c".into()]), [vec!["a".to_owned(), "b".into()], vec!["c".into()]]);
    }

    #[test]
    fn paths_are_taken_as_listings_show_them() {
        let path = |text: &str| snapshot_path(OsStr::new(text)).unwrap();
        assert_eq!(path("/a//b/"), [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(path("a\\xff"), [b"a\xff".to_vec()]);
        assert_eq!(path("a\\qb"), [b"a\\qb".to_vec()]);
        assert!(snapshot_path(OsStr::new("../a")).is_err());
    }
}
