//! Nights: what changes in a workspace from one day to the next.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::object::{Body, Content, Generated, Language, Notebook};
use super::path;
use super::random::{Random, mixed};
use super::tree::{At, DAY_MS, Tree};

/// What changes in a night.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct NightOptions {
    /// The share of the notebooks whose source changes.
    pub changed_share: f64,
    /// How many notebooks are new.
    pub new: usize,
    /// How many notebooks are deleted.
    pub deleted: usize,
    /// How many notebooks are renamed.
    pub renamed: usize,
    /// What the choice follows from, together with the number of the night.
    pub seed: u64,
}

impl Default for NightOptions {
    fn default() -> Self {
        Self { changed_share: 0.01, new: 0, deleted: 0, renamed: 0, seed: 1 }
    }
}

/// What changed in a night. No notebook is in it twice; paths are in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Night {
    /// Its number, counted from 1.
    pub number: u64,
    /// The notebooks whose source changed.
    pub changed: Vec<String>,
    /// Those that are new.
    pub new: Vec<String>,
    /// Those that were deleted.
    pub deleted: Vec<String>,
    /// Those that were renamed, with their old and their new path.
    pub renamed: Vec<(String, String)>,
}

/// Lets a night pass.
pub(super) fn pass(tree: &mut Tree, number: u64, options: &NightOptions) -> Night {
    tree.pass_a_day();
    let mut random = Random::new(&[options.seed, number, 0x0047]);
    let mut notebooks = Vec::new();
    tree.walk(At::ROOT, "/", &mut |_, at, node| {
        if node.content.language().is_some() {
            notebooks.push(at);
        }
    });
    let changed = (notebooks.len() as f64 * options.changed_share).round() as usize;
    random.draw(&mut notebooks, changed + options.deleted + options.renamed);
    let (changed, rest) = notebooks.split_at(changed.min(notebooks.len()));
    let (deleted, rest) = rest.split_at(options.deleted.min(rest.len()));
    let renamed = &rest[..options.renamed.min(rest.len())];

    let mut paths = paths(tree, [changed, deleted, renamed].concat());
    let mut take = |at: &At| paths.remove(at).expect("it was just found");
    let mut night = Night { number, ..Night::default() };
    for at in changed {
        edit(tree, *at, number);
        night.changed.push(take(at));
    }
    for from in renamed.iter().map(&mut take) {
        let to = format!("{from}_renamed_{number}");
        assert!(tree.rename(&from, &to), "{to} is free");
        night.renamed.push((from, to));
    }
    for path in deleted.iter().map(&mut take) {
        tree.remove(&path);
        night.deleted.push(path);
    }
    night.new = (0..options.new).map(|order| add(tree, order, number, &mut random)).collect();
    night.changed.sort_unstable();
    night.new.sort_unstable();
    night.deleted.sort_unstable();
    night.renamed.sort_unstable();
    night
}

fn paths(tree: &Tree, mut wanted: Vec<At>) -> HashMap<At, String> {
    wanted.sort_unstable();
    let mut paths = HashMap::with_capacity(wanted.len());
    tree.walk(At::ROOT, "/", &mut |path, at, _| {
        if wanted.binary_search(&at).is_ok() {
            paths.insert(at, path.to_owned());
        }
    });
    paths
}

fn edit(tree: &mut Tree, at: At, night: u64) {
    let node = tree.node_mut(at);
    node.modified_at = node.modified_at.map(|modified_at| modified_at + DAY_MS);
    if let Content::Notebook(notebook) = &mut node.content {
        let note = format!("\n{} changed in night {night}\n", notebook.language.comment());
        notebook.body = notebook.body.edited(&note);
    }
}

/// Adds a notebook to some folder.
fn add(tree: &mut Tree, order: usize, night: u64, random: &mut Random) -> String {
    let folder = format!("/Clients/2025/ENG-{}/NOTEBOOKS", 9000 + random.below(50));
    let at = tree.mkdirs(&folder).expect("no file is in the way of what is generated");
    let name = format!("new_{night}_{order:04}");
    let seed = mixed(&[random.next()]);
    let body = Body::Generated(Generated { seed, version: 0, is_notebook: true });
    let content = Content::Notebook(Notebook { language: Language::Python, jupyter: None, body });
    tree.put(at, &name, content).expect("no folder has the name of what is generated");
    path::joined(&folder, &name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::databricks::generate::{GenerateOptions, generate};

    fn generated() -> Tree {
        let mut tree = Tree::new(1);
        generate(&mut tree, &GenerateOptions::default());
        tree
    }

    fn content(tree: &Tree, path: &str) -> Option<(Vec<u8>, Option<i64>)> {
        let node = tree.node(tree.find(path)?);
        Some((node.content.body()?.bytes().to_vec(), node.modified_at))
    }

    #[test]
    fn a_night_changes_what_it_tells_and_the_same_night_changes_the_same() {
        let (mut tree, before) = (generated(), generated());
        let options = NightOptions { changed_share: 0.05, new: 7, deleted: 5, renamed: 3, ..NightOptions::default() };
        let night = pass(&mut tree, 1, &options);
        assert_eq!((night.changed.len(), night.new.len(), night.deleted.len(), night.renamed.len()), (50, 7, 5, 3));
        for path in &night.changed {
            let ((old, old_time), (new, new_time)) = (content(&before, path).unwrap(), content(&tree, path).unwrap());
            assert!(old != new && new_time == old_time.map(|time| time + DAY_MS), "{path}");
        }
        for (from, to) in &night.renamed {
            assert_eq!((content(&tree, from), content(&tree, to)), (None, content(&before, from)));
            assert_eq!(tree.find(to), before.find(from));
        }
        assert!(night.deleted.iter().all(|path| content(&tree, path).is_none() && content(&before, path).is_some()));
        assert!(night.new.iter().all(|path| content(&tree, path).is_some() && content(&before, path).is_none()));
        assert_eq!(pass(&mut generated(), 1, &options), night);
        assert_ne!(pass(&mut tree, 2, &options).changed, night.changed);
    }
}
