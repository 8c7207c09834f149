//! Building, changing and looking at a workspace without any call.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::calls::given_by_file;
use super::counters::{Counters, LoggedRequest};
use super::generate::{self, GenerateOptions};
use super::night::{self, Night, NightOptions};
use super::object::{Body, Content, Language, Node, Notebook, Object, Other};
use super::rules::{Rule, RuleId};
use super::server::Fake;
use super::tree::{At, Tree};
use super::{FakeWorkspace, notebook, path};

/// The objects of a workspace. Paths may begin with `/Workspace`.
///
/// What is put anywhere has all folders above it. What cannot be done panics: a file in the way of a folder, a path
/// that is none.
impl FakeWorkspace {
    /// Makes a folder, and all folders above it where they are not yet. Returns its id.
    pub fn mkdirs(&self, path: &str) -> u64 {
        let mut tree = self.fake.tree.write();
        let at = tree.mkdirs(&normal(path)).unwrap_or_else(|_| panic!("something is in the way of {path}"));
        tree.id(at)
    }

    /// Puts a notebook, or another source in its place. Returns its id.
    pub fn put_notebook(&self, path: &str, language: Language, source: &[u8]) -> u64 {
        let body = Body::stored(&notebook::with_header(language, source));
        self.put(path, Content::Notebook(Notebook { language, jupyter: None, body }))
    }

    /// Puts a file, or other bytes in its place. Returns its id.
    pub fn put_file(&self, path: &str, bytes: &[u8]) -> u64 {
        self.put(path, Content::File(Body::stored(bytes)))
    }

    /// Puts an object without content, of any type. Those of the types `DIRECTORY` and `REPO` are folders. Returns its
    /// id.
    pub fn put_object(&self, path: &str, object_type: &str) -> u64 {
        if !["DIRECTORY", "REPO"].contains(&object_type) {
            return self
                .put(path, Content::Other(Box::new(Other { object_type: object_type.into(), resource_id: None })));
        }
        let id = self.mkdirs(path);
        self.change(path, |node| {
            if let Content::Folder(folder) = &mut node.content {
                folder.is_repo = object_type == "REPO";
            }
        });
        id
    }

    /// Makes a folder one that is marked as a Git folder, or one that is not.
    pub fn set_git_folder(&self, path: &str, is_git_folder: bool) {
        self.change(path, |node| match &mut node.content {
            Content::Folder(folder) => folder.is_git_folder = is_git_folder,
            _ => panic!("{path} is no folder"),
        });
    }

    fn put(&self, path: &str, content: Content) -> u64 {
        let path = normal(path);
        let (parent, name) = path::split(&path);
        let mut tree = self.fake.tree.write();
        let put = tree.mkdirs(parent).and_then(|parent| tree.put(parent, name, content));
        tree.id(put.unwrap_or_else(|_| panic!("something is in the way of {path}")))
    }

    /// Moves an object with all below it. It keeps its id and its times.
    pub fn rename(&self, from: &str, to: &str) {
        let (from, to) = (normal(from), normal(to));
        let mut tree = self.fake.tree.write();
        tree.mkdirs(path::split(&to).0).unwrap_or_else(|_| panic!("something is in the way of {to}"));
        assert!(tree.rename(&from, &to), "{from} cannot become {to}");
    }

    /// Removes an object with all below it.
    pub fn remove(&self, path: &str) {
        assert!(self.fake.tree.write().remove(&normal(path)), "there is no {path}");
    }

    /// Changes the content of a notebook or a file, and when it was changed.
    pub fn modify(&self, path: &str) {
        let now = self.fake.tree.write().tick();
        self.change(path, |node| {
            let note =
                format!("\n{} changed at {now}\n", node.content.language().unwrap_or(Language::Python).comment());
            match &mut node.content {
                Content::Notebook(Notebook { body, .. }) | Content::File(body) => *body = body.edited(&note),
                _ => panic!("{path} has no content"),
            }
            node.modified_at = Some(now);
        });
    }

    /// Changes when an object was changed, and not its content.
    pub fn touch(&self, path: &str) {
        let now = self.fake.tree.write().tick();
        self.set_modified_at(path, Some(now));
    }

    /// Sets when an object was changed, as far as the workspace tells; nothing, or 0, where it does not know.
    pub fn set_modified_at(&self, path: &str, modified_at: Option<i64>) {
        self.change(path, |node| node.modified_at = modified_at);
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Node)) {
        let mut tree = self.fake.tree.write();
        let at = tree.find(&normal(path)).unwrap_or_else(|| panic!("there is no {path}"));
        change(tree.node_mut(at));
    }

    /// Returns an object.
    pub fn get(&self, path: &str) -> Option<Object> {
        let path = normal(path);
        let tree = self.fake.tree.read();
        let at = tree.find(&path)?;
        Some(object(&tree, &path, at))
    }

    /// Returns all objects in the order of their paths, with their content. For large workspaces, see
    /// [`FakeWorkspace::digest`].
    pub fn objects(&self) -> Vec<Object> {
        let tree = self.fake.tree.read();
        let mut objects = Vec::new();
        tree.walk(At::ROOT, "/", &mut |path, at, _| objects.push(object(&tree, path, at)));
        objects.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        objects
    }

    /// Returns a hash of the paths, types, languages and contents of all objects.
    pub fn digest(&self) -> String {
        self.fake.digest()
    }

    /// Adds a generated workspace.
    pub fn generate(&self, options: &GenerateOptions) {
        generate::generate(&mut self.fake.tree.write(), options);
    }

    /// Lets a night pass, in which notebooks change. Returns what changed.
    pub fn night(&self, options: &NightOptions) -> Night {
        self.fake.night(options)
    }

    /// Removes all objects of the workspace.
    pub fn wipe(&self) {
        self.fake.wipe();
    }

    /// Adds what lies in a folder on disk, as an import of each file would. `x.py` that begins like a notebook becomes
    /// the notebook `x`.
    pub fn load_folder(&self, folder: &Path) {
        self.load_below(folder, "/");
    }

    fn load_below(&self, folder: &Path, path: &str) {
        self.mkdirs(path);
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let from = entry.unwrap_or_else(|error| panic!("{}: {error}", folder.display())).path();
            let name = from.file_name().expect("an entry has a name").to_str().expect("names are UTF-8");
            let path = path::joined(path, name);
            if from.is_dir() {
                self.load_below(&from, &path);
            } else {
                let bytes = fs::read(&from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
                let (path, content) = given_by_file(&path, &bytes);
                self.put(path, content);
            }
        }
    }
}

/// How the workspace behaves, and what it was asked.
impl FakeWorkspace {
    /// Adds a rule by which calls go wrong.
    pub fn add_rule(&self, rule: Rule) -> RuleId {
        self.fake.rules.add(rule)
    }

    /// Removes a rule.
    pub fn remove_rule(&self, id: RuleId) {
        assert!(self.fake.rules.remove(id), "there is no rule {}", id.0);
    }

    /// Sets how many calls a second it takes, by the names of their kinds. Others are not limited.
    pub fn set_rates(&self, rates: &BTreeMap<String, f64>) {
        self.fake.set_rates(rates, self.fake.options.rates_scale);
    }

    /// Sets what each call waits.
    pub fn set_latency(&self, latency: Duration) {
        self.fake.set_latency(latency);
    }

    /// Sets the share of calls that fail.
    pub fn set_failure_share(&self, share: f64) {
        self.fake.set_failure_share(share);
    }

    /// Returns what it was asked since it was started, or since the counters were reset.
    pub fn counters(&self) -> Counters {
        self.fake.counting.read()
    }

    /// Returns all requests since then, if it keeps a log.
    pub fn log(&self) -> Vec<LoggedRequest> {
        self.fake.counting.log()
    }

    /// Sets all counters back, those of exports too, and forgets the log.
    pub fn reset_counters(&self) {
        self.fake.reset_counters();
    }

    /// Returns how often each object was exported, by its path of now. What was deleted since then is not in it.
    pub fn export_counts(&self) -> HashMap<String, u32> {
        self.fake.export_counts()
    }

    /// Takes a personal access token from now on.
    pub fn add_token(&self, token: &str) {
        self.fake.tokens.add(token);
    }

    /// Takes no token any more that it took so far.
    pub fn revoke_tokens(&self) {
        self.fake.tokens.revoke();
    }

    /// Lets all tokens expire that it gave. Personal access tokens stay.
    pub fn expire_tokens(&self) {
        self.fake.tokens.expire();
    }
}

impl Fake {
    pub(super) fn night(&self, options: &NightOptions) -> Night {
        let number = self.nights.fetch_add(1, Relaxed) + 1;
        night::pass(&mut self.tree.write(), number, options)
    }

    pub(super) fn wipe(&self) {
        self.tree.write().clear();
        self.dashboards.trash_within("/");
    }

    pub(super) fn digest(&self) -> String {
        let tree = self.tree.read();
        let mut objects = Vec::new();
        tree.walk(At::ROOT, "/", &mut |path, at, _| objects.push((path.to_owned(), at)));
        objects.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        for (path, at) in objects {
            let content = &tree.node(at).content;
            let bytes = content.body().map(Body::bytes).unwrap_or_default();
            let language = content.language().map_or("", Language::name);
            for part in [path.as_bytes(), content.object_type().as_bytes(), language.as_bytes(), &bytes] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        hasher.finalize().to_string()
    }

    pub(super) fn reset_counters(&self) {
        self.counting.reset();
        self.tree.read().reset_exports();
    }

    pub(super) fn export_counts(&self) -> HashMap<String, u32> {
        let mut counts = HashMap::new();
        self.tree.read().walk(At::ROOT, "/", &mut |path, _, node: &Node| {
            let exports = AtomicU32::load(&node.exports, Relaxed);
            if exports > 0 {
                counts.insert(path.to_owned(), exports);
            }
        });
        counts
    }
}

fn object(tree: &Tree, path: &str, at: At) -> Object {
    let node = tree.node(at);
    Object {
        path: path.to_owned(),
        object_type: node.content.object_type().to_owned(),
        language: node.content.language(),
        id: tree.id(at),
        modified_at: node.modified_at,
        content: node.content.body().map(|body| body.bytes().to_vec()),
    }
}

fn normal(path: &str) -> String {
    path::normal(path).unwrap_or_else(|| panic!("{path} is no path"))
}
