//! Rules by which calls go wrong: which ones, when, and how.
//!
//! A rule counts the calls that it is about, whether or not another rule has its way with them. Of several rules that
//! would have their way, the one that was added first has it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use axum::http::Method;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::fault::Action;
use super::kind::Kind;
use super::path;

/// A rule by which calls go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The calls that it is about.
    pub target: Target,
    /// Which of them go wrong.
    #[serde(default)]
    pub when: When,
    /// What goes wrong.
    pub action: Action,
}

impl Rule {
    /// Makes a rule of which calls it is about, which of them go wrong, and what goes wrong.
    pub fn new(target: Target, when: When, action: Action) -> Self {
        Self { target, when, action }
    }
}

/// The calls that a rule is about. In patterns, `*` stands for any characters, slashes among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// All calls.
    All,
    /// Those of one kind.
    Kind(Kind),
    /// Those with this method, if one is given, whose path fits a pattern.
    Request {
        /// The method.
        #[serde(default)]
        method: Option<String>,
        /// The pattern of the path in the URL, without the query.
        path: String,
    },
    /// Those of this kind, if one is given, that are about an object whose path fits a pattern: an object of the
    /// workspace, or a file or folder in a volume.
    Object {
        /// The kind.
        #[serde(default)]
        kind: Option<Kind>,
        /// The pattern of the object's path, without `/Workspace`.
        path: String,
    },
    /// Those that list, look at or export an object with this path or below it.
    Subtree(String),
}

impl Target {
    fn is_of(&self, call: &Call<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Kind(kind) => *kind == call.kind,
            Self::Request { method, path } => {
                method.as_deref().is_none_or(|method| method == call.method.as_str()) && path::fits(path, call.path)
            }
            Self::Object { kind, path } => {
                kind.is_none_or(|kind| kind == call.kind) && call.object.is_some_and(|object| path::fits(path, object))
            }
            Self::Subtree(top) => {
                matches!(call.kind, Kind::List | Kind::Status | Kind::Export)
                    && call.object.is_some_and(|object| path::is_within(object, top))
            }
        }
    }

    fn is_about_objects(&self) -> bool {
        matches!(self, Self::Object { .. } | Self::Subtree(_))
    }
}

/// Which of the calls that a rule is about go wrong. They are counted from 1, since the rule was added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// All of them.
    #[default]
    Always,
    /// The one of this number.
    Nth(u64),
    /// So many, from the first one on.
    First(u64),
    /// The last one of so many, again and again.
    Every(u64),
}

impl When {
    fn holds(self, number: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Nth(nth) => number == nth,
            Self::First(count) => number <= count,
            Self::Every(count) => number.is_multiple_of(count),
        }
    }
}

/// What a rule is known by as long as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleId(pub u64);

/// What rules look at in a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) kind: Kind,
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) object: Option<&'a str>,
}

/// The rules of a workspace.
#[derive(Debug, Default)]
pub(super) struct Rules {
    kept: Mutex<Kept>,
    /// How many there are, and how many look at objects, so that calls without rules need no lock.
    count: AtomicUsize,
    about_objects: AtomicUsize,
}

#[derive(Debug, Default)]
struct Kept {
    next_id: u64,
    rules: Vec<Counted>,
}

#[derive(Debug)]
struct Counted {
    id: RuleId,
    rule: Rule,
    calls: u64,
}

impl Rules {
    pub(super) fn add(&self, rule: Rule) -> RuleId {
        let mut kept = self.kept.lock();
        kept.next_id += 1;
        let id = RuleId(kept.next_id);
        kept.rules.push(Counted { id, rule, calls: 0 });
        self.note(&kept);
        id
    }

    /// Removes a rule. Tells whether it was there.
    pub(super) fn remove(&self, id: RuleId) -> bool {
        let mut kept = self.kept.lock();
        let before = kept.rules.len();
        kept.rules.retain(|counted| counted.id != id);
        self.note(&kept);
        kept.rules.len() < before
    }

    pub(super) fn clear(&self) {
        let mut kept = self.kept.lock();
        kept.rules.clear();
        self.note(&kept);
    }

    fn note(&self, kept: &Kept) {
        self.count.store(kept.rules.len(), Relaxed);
        let about_objects = kept.rules.iter().filter(|counted| counted.rule.target.is_about_objects()).count();
        self.about_objects.store(about_objects, Relaxed);
    }

    /// Tells whether there is a rule for which it matters what object a call is about.
    pub(super) fn look_at_objects(&self) -> bool {
        self.about_objects.load(Relaxed) > 0
    }

    /// Returns what goes wrong with a call.
    pub(super) fn action(&self, call: &Call<'_>) -> Option<Action> {
        if self.count.load(Relaxed) == 0 {
            return None;
        }
        let mut action = None;
        for counted in self.kept.lock().rules.iter_mut().filter(|counted| counted.rule.target.is_of(call)) {
            counted.calls += 1;
            if action.is_none() && counted.rule.when.holds(counted.calls) {
                action = Some(counted.rule.action.clone());
            }
        }
        action
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(kind: Kind, object: &str) -> Call<'_> {
        Call { kind, method: &Method::GET, path: "/api/2.0/workspace/export", object: Some(object) }
    }

    #[test]
    fn rules_are_about_the_calls_that_their_target_names() {
        let is_of = |target: Target, kind, object| target.is_of(&call(kind, object));
        let object = |kind| Target::Object { kind, path: "/a/*".to_owned() };
        assert!(is_of(object(None), Kind::Export, "/a/b/c") && !is_of(object(None), Kind::Export, "/b"));
        assert!(is_of(object(Some(Kind::List)), Kind::List, "/a/b"));
        assert!(!is_of(object(Some(Kind::List)), Kind::Export, "/a/b"));
        let subtree = || Target::Subtree("/a".to_owned());
        assert!(is_of(subtree(), Kind::List, "/a") && is_of(subtree(), Kind::Export, "/a/b"));
        assert!(!is_of(subtree(), Kind::Import, "/a/b") && !is_of(subtree(), Kind::List, "/ab"));
        let request =
            |method: &str| Target::Request { method: Some(method.to_owned()), path: "/api/*export".to_owned() };
        assert!(is_of(request("GET"), Kind::Export, "/") && !is_of(request("POST"), Kind::Export, "/"));
    }

    #[test]
    fn of_several_rules_the_first_has_its_way_and_all_count() {
        let rules = Rules::default();
        let add = |when, action| rules.add(Rule::new(Target::Kind(Kind::Export), when, action));
        let nth = add(When::Nth(2), Action::EmptyBody);
        add(When::Every(2), Action::HtmlPage);
        add(When::First(1), Action::CutBody);
        let next = || rules.action(&call(Kind::Export, "/a"));
        assert_eq!(next(), Some(Action::CutBody));
        assert_eq!(next(), Some(Action::EmptyBody));
        assert_eq!(next(), None);
        assert_eq!(next(), Some(Action::HtmlPage));
        assert!(rules.remove(nth) && !rules.remove(nth));
        rules.clear();
        assert_eq!(rules.action(&call(Kind::Export, "/a")), None);
    }
}
