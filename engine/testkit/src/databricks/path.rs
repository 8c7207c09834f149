//! Paths of the workspace and of volumes, as the calls give them.

/// Returns the one form of a path: with a slash in front, none at the end, none doubled, without `/Workspace`.
/// Nothing where the path does not begin with a slash.
pub(super) fn normal(path: &str) -> Option<String> {
    let path = collapsed(path)?;
    match path.strip_prefix("/Workspace") {
        Some("") => Some("/".to_owned()),
        Some(rest) if rest.starts_with('/') => Some(rest.to_owned()),
        _ => Some(path),
    }
}

/// Returns a path without doubled slashes and without one at the end.
pub(super) fn collapsed(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    let mut collapsed = String::with_capacity(path.len());
    for name in names(path) {
        collapsed.push('/');
        collapsed.push_str(name);
    }
    if collapsed.is_empty() {
        collapsed.push('/');
    }
    Some(collapsed)
}

/// Returns the names that a path is made of.
pub(super) fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

/// Splits a path into its parent and its name. The root has an empty name.
pub(super) fn split(path: &str) -> (&str, &str) {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    (if parent.is_empty() { "/" } else { parent }, name)
}

/// Returns the path of what has this name in a folder.
pub(super) fn joined(parent: &str, name: &str) -> String {
    if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") }
}

/// Tells whether a path is another one or lies below it.
pub(super) fn is_within(path: &str, top: &str) -> bool {
    path.strip_prefix(top.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Tells whether a text fits a pattern, where `*` stands for any characters, slashes among them.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    text.strip_prefix(start)
        .is_some_and(|text| (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| fits(rest, &text[at..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_of_the_workspace_and_doubled_slashes_make_no_difference() {
        assert_eq!(normal("/Workspace/Users//a/").as_deref(), Some("/Users/a"));
        assert_eq!(normal("/Workspace").as_deref(), Some("/"));
        assert_eq!(normal("/Workspaces/a").as_deref(), Some("/Workspaces/a"));
        assert_eq!(normal("//").as_deref(), Some("/"));
        assert_eq!(normal("Users/a"), None);
    }

    #[test]
    fn a_folder_is_not_within_one_whose_name_begins_alike() {
        assert!(is_within("/a/b", "/a") && is_within("/a", "/a") && is_within("/a", "/"));
        assert!(!is_within("/ab", "/a"));
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        assert!(fits("/a/*", "/a/b/c") && fits("*", "") && fits("*.py", "/x.py") && fits("/a/*/c*", "/a/b/cd"));
        assert!(!fits("/a/*", "/b/a/") && !fits("/a", "/a/b"));
    }
}
