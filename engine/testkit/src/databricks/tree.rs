//! The tree of a workspace's objects, and that of the files in volumes.
//!
//! * An object keeps its id as long as it exists, wherever it is moved. No id is given twice.
//! * The tree has a clock of its own, which no change leaves standing: two changes are never of the same time, and a
//!   workspace that is built twice in the same way is twice the same.

use std::sync::atomic::{AtomicU32, Ordering};

use super::object::{Content, Folder, Node};
use super::path;

/// The time at which generated workspaces begin, in milliseconds since 1970.
pub(super) const EPOCH_MS: i64 = 1_760_000_000_000;
/// A day in milliseconds.
pub(super) const DAY_MS: i64 = 86_400_000;
/// Ids look like those of the service: long numbers.
const FIRST_ID: u64 = 4_000_000_000_000;

/// Where an object is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct At(u32);

impl At {
    pub(super) const ROOT: Self = Self(0);
}

/// Something on the way to a path is no folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Blocked;

#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The id of the root.
    first_id: u64,
    now_ms: i64,
    /// How far apart two changes are.
    step_ms: i64,
}

impl Tree {
    pub(super) fn new(step_ms: i64) -> Self {
        let mut tree = Self { nodes: Vec::new(), first_id: FIRST_ID, now_ms: EPOCH_MS + DAY_MS, step_ms };
        tree.add_root();
        tree
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) {
        self.first_id += self.nodes.len() as u64;
        self.nodes = Vec::new();
        self.add_root();
    }

    fn add_root(&mut self) {
        let content = Content::Folder(Box::default());
        self.nodes.push(Node {
            parent: At::ROOT,
            exports: AtomicU32::new(0),
            created_at: 0,
            modified_at: None,
            content,
        });
    }

    /// Makes room for so many more objects.
    pub(super) fn reserve(&mut self, count: usize) {
        self.nodes.reserve_exact(count);
    }

    /// Returns the time of the next change.
    pub(super) fn tick(&mut self) -> i64 {
        self.now_ms += self.step_ms;
        self.now_ms
    }

    /// Lets a day pass.
    pub(super) fn pass_a_day(&mut self) {
        self.now_ms += DAY_MS;
    }

    pub(super) fn node(&self, at: At) -> &Node {
        &self.nodes[at.0 as usize]
    }

    pub(super) fn node_mut(&mut self, at: At) -> &mut Node {
        &mut self.nodes[at.0 as usize]
    }

    pub(super) fn id(&self, at: At) -> u64 {
        self.first_id + u64::from(at.0)
    }

    /// Returns the object with an id.
    pub(super) fn with_id(&self, id: u64) -> Option<At> {
        let at = At(u32::try_from(id.checked_sub(self.first_id)?).ok()?);
        let node = self.nodes.get(at.0 as usize)?;
        (!matches!(node.content, Content::Gone)).then_some(at)
    }

    pub(super) fn folder(&self, at: At) -> Option<&Folder> {
        self.node(at).content.folder()
    }

    fn folder_mut(&mut self, at: At) -> Option<&mut Folder> {
        match &mut self.node_mut(at).content {
            Content::Folder(folder) => Some(folder),
            _ => None,
        }
    }

    pub(super) fn child(&self, at: At, name: &str) -> Option<At> {
        self.folder(at)?.children.get(name).copied()
    }

    pub(super) fn find(&self, path: &str) -> Option<At> {
        path::names(path).try_fold(At::ROOT, |at, name| self.child(at, name))
    }

    /// Returns where an object lies.
    pub(super) fn path(&self, at: At) -> String {
        let mut names = Vec::new();
        let mut below = at;
        while below != At::ROOT {
            let parent = self.node(below).parent;
            let children = &self.folder(parent).expect("what is above an object is a folder").children;
            names.extend(children.iter().find(|(_, child)| **child == below).map(|(name, _)| &**name));
            below = parent;
        }
        names.iter().rev().fold("/".to_owned(), |path, name| path::joined(&path, name))
    }

    /// Returns a folder, after making it and all folders above it where they are not yet.
    pub(super) fn mkdirs(&mut self, path: &str) -> Result<At, Blocked> {
        let mut at = At::ROOT;
        for name in path::names(path) {
            at = match self.child(at, name) {
                Some(child) => child,
                None => self.add(at, name, Content::Folder(Box::default()))?,
            };
        }
        if self.folder(at).is_some() { Ok(at) } else { Err(Blocked) }
    }

    /// Puts an object into a folder. One that has the name gives way to it, and leaves it its id.
    pub(super) fn put(&mut self, folder: At, name: &str, content: Content) -> Result<At, Blocked> {
        match self.child(folder, name) {
            None => self.add(folder, name, content),
            Some(at) if self.folder(at).is_some() => Err(Blocked),
            Some(at) => {
                let now = self.tick();
                let node = self.node_mut(at);
                node.content = content;
                node.modified_at = Some(now);
                Ok(at)
            }
        }
    }

    fn add(&mut self, folder: At, name: &str, content: Content) -> Result<At, Blocked> {
        let at = At(u32::try_from(self.nodes.len()).expect("fewer objects than that"));
        self.folder_mut(folder).ok_or(Blocked)?.children.insert(name.into(), at);
        let now = self.tick();
        let node =
            Node { parent: folder, exports: AtomicU32::new(0), created_at: now, modified_at: Some(now), content };
        self.nodes.push(node);
        Ok(at)
    }

    /// Removes an object and all below it. Tells whether there was one.
    pub(super) fn remove(&mut self, path: &str) -> bool {
        let Some(at) = self.unlink(path) else {
            return false;
        };
        let mut removed = vec![at];
        while let Some(at) = removed.pop() {
            if let Content::Folder(folder) = std::mem::replace(&mut self.node_mut(at).content, Content::Gone) {
                removed.extend(folder.children.into_values());
            }
        }
        true
    }

    fn unlink(&mut self, path: &str) -> Option<At> {
        let (parent, name) = path::split(path);
        let parent = self.find(parent)?;
        self.folder_mut(parent)?.children.remove(name)
    }

    /// Moves an object, with all below it, to where nothing lies yet. Tells whether that was possible.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let (parent, name) = path::split(to);
        let Some(parent) = self.find(parent).filter(|at| self.folder(*at).is_some()) else {
            return false;
        };
        if path::is_within(to, from) || self.child(parent, name).is_some() {
            return false;
        }
        let Some(at) = self.unlink(from) else {
            return false;
        };
        self.node_mut(at).parent = parent;
        self.folder_mut(parent).expect("it was looked up").children.insert(name.into(), at);
        true
    }

    /// Visits all objects below a folder in the order of their names, each folder before what lies in it.
    pub(super) fn walk<'a>(&'a self, top: At, path: &str, visit: &mut impl FnMut(&str, At, &'a Node)) {
        let mut path = path.trim_end_matches('/').to_owned();
        self.walk_into(top, &mut path, visit);
    }

    fn walk_into<'a>(&'a self, at: At, path: &mut String, visit: &mut impl FnMut(&str, At, &'a Node)) {
        let Some(folder) = self.folder(at) else {
            return;
        };
        for (name, child) in &folder.children {
            let length = path.len();
            path.push('/');
            path.push_str(name);
            visit(path, *child, self.node(*child));
            self.walk_into(*child, path, visit);
            path.truncate(length);
        }
    }

    /// Forgets how often objects were exported.
    pub(super) fn reset_exports(&self) {
        for node in &self.nodes {
            node.exports.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::databricks::object::Body;

    fn file() -> Content {
        Content::File(Body::stored(b"x"))
    }

    #[test]
    fn an_object_keeps_its_id_when_it_is_moved_or_replaced_and_no_id_comes_again() {
        let mut tree = Tree::new(1);
        let (a, b) = (tree.mkdirs("/a").unwrap(), tree.mkdirs("/b/c").unwrap());
        let at = tree.put(a, "x", file()).unwrap();
        let id = tree.id(at);
        assert!(tree.rename("/a", "/b/c/d"));
        assert_eq!((tree.find("/b/c/d/x"), tree.path(at).as_str()), (Some(at), "/b/c/d/x"));
        assert_eq!(tree.put(a, "x", file()), Ok(at));
        assert!(!tree.rename("/b", "/b/c/e") && !tree.rename("/b", "/nowhere/b"));
        assert!(tree.remove("/b"));
        assert_eq!((tree.find("/b"), tree.with_id(id), tree.folder(b).is_some()), (None, None, false));
        tree.clear();
        let at = tree.put(At::ROOT, "x", file()).unwrap();
        assert!(tree.id(at) > id);
    }

    #[test]
    fn a_file_is_in_the_way_of_folders() {
        let mut tree = Tree::new(1);
        tree.put(At::ROOT, "x", file()).unwrap();
        assert_eq!(tree.mkdirs("/x/y"), Err(Blocked));
        assert_eq!(tree.mkdirs("/x"), Err(Blocked));
        let folder = tree.mkdirs("/f").unwrap();
        assert_eq!(tree.put(At::ROOT, "f", file()), Err(Blocked));
        assert_eq!(tree.mkdirs("/f"), Ok(folder));
    }
}
