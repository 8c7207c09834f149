//! Workspaces that are generated: engagements by year, each with a folder of notebooks and folders in there.

use serde::Deserialize;

use super::object::{Body, Content, Generated, Language, Notebook};
use super::random::{Random, happens, mixed};
use super::tree::{At, DAY_MS, EPOCH_MS, Tree};

const YEARS: [&str; 3] = ["2023", "2024", "2025"];
const SUBFOLDERS: [&str; 3] = ["bronze", "silver", "gold"];
const STEMS: [&str; 12] = [
    "etl_load",
    "ingest_raw",
    "clean_events",
    "build_marts",
    "daily_report",
    "quality_checks",
    "train_model",
    "score_batch",
    "reconcile",
    "export_csv",
    "backfill",
    "explore",
];
const SUFFIXES: [&str; 5] = ["json", "md", "yml", "csv", "txt"];
/// The folder of all engagements, and those of the years.
const TOP_FOLDERS: usize = 1 + YEARS.len();

/// What a generated workspace is to hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct GenerateOptions {
    /// How many notebooks and files there are.
    pub notebooks: usize,
    /// How many folders there are in all, at least 6.
    pub folders: usize,
    /// What everything follows from.
    pub seed: u64,
    /// The share of files that are no notebooks.
    pub files_share: f64,
    /// The share of objects with the content of another one.
    pub copies_share: f64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { notebooks: 1000, folders: 60, seed: 1, files_share: 0.0, copies_share: 0.15 }
    }
}

/// Adds a generated workspace to a tree.
pub(super) fn generate(tree: &mut Tree, options: &GenerateOptions) {
    tree.reserve(options.notebooks + options.folders);
    let leaves = folders(tree, options.folders.max(TOP_FOLDERS + 2));
    for number in 0..options.notebooks {
        let (folder, order) = (leaves[number % leaves.len()], number / leaves.len());
        add(tree, folder, order, number as u64, options);
    }
}

/// Makes the folders. Returns those that notebooks lie in.
fn folders(tree: &mut Tree, count: usize) -> Vec<At> {
    let make = |tree: &mut Tree, path: &str| tree.mkdirs(path).expect("no file is in the way of what is generated");
    for year in YEARS {
        make(tree, &format!("/Clients/{year}"));
    }
    let mut left = count - TOP_FOLDERS;
    let mut leaves = Vec::with_capacity(left);
    for engagement in 0.. {
        if left < 2 {
            break;
        }
        let notebooks = format!("/Clients/{}/ENG-{:04}/NOTEBOOKS", YEARS[engagement % YEARS.len()], 1001 + engagement);
        leaves.push(make(tree, &notebooks));
        left -= 2;
        // engagements differ in size
        let subfolders = SUBFOLDERS.iter().take(engagement % (SUBFOLDERS.len() + 1)).take(left);
        for subfolder in subfolders {
            leaves.push(make(tree, &format!("{notebooks}/{subfolder}")));
            left -= 1;
        }
    }
    // no engagement has a single folder
    if left == 1 {
        make(tree, "/Clients/Archive");
    }
    leaves
}

fn add(tree: &mut Tree, folder: At, order: usize, number: u64, options: &GenerateOptions) {
    let mut random = Random::new(&[options.seed, number]);
    let is_notebook = !happens(random.next(), options.files_share);
    let body = Body::Generated(Generated { seed: content_seed(number, options), version: 0, is_notebook });
    let stem = STEMS[order % STEMS.len()];
    let (name, content) = if is_notebook {
        let notebook = Notebook { language: Language::Python, jupyter: None, body };
        (format!("{stem}_{order:03}"), Content::Notebook(notebook))
    } else {
        (format!("{stem}_{order:03}.{}", random.choose(&SUFFIXES)), Content::File(body))
    };
    let at = tree.put(folder, &name, content).expect("no folder has the name of what is generated");
    let node = tree.node_mut(at);
    node.created_at = EPOCH_MS - random.below(300 * DAY_MS as usize) as i64;
    node.modified_at = Some(EPOCH_MS + random.below(DAY_MS as usize) as i64);
}

/// Returns what the content of an object follows from. Copies have that of an object before them.
fn content_seed(number: u64, options: &GenerateOptions) -> u64 {
    let mut number = number;
    let mut chance = mixed(&[options.seed, number, 0xc0b1]);
    while number > 0 && happens(chance, options.copies_share) {
        number = mixed(&[chance]) % number;
        chance = mixed(&[options.seed, number, 0xc0b1]);
    }
    mixed(&[options.seed, number, 0x5eed])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn contents(options: &GenerateOptions) -> (usize, usize, Vec<(String, Vec<u8>)>) {
        let mut tree = Tree::new(1);
        generate(&mut tree, options);
        let (mut folders, mut files, mut contents) = (0, 0, Vec::new());
        tree.walk(At::ROOT, "/", &mut |path, _, node| {
            folders += usize::from(node.content.folder().is_some());
            files += usize::from(matches!(node.content, Content::File(_)));
            if let Some(body) = node.content.body() {
                contents.push((path.to_owned(), body.bytes().to_vec()));
            }
        });
        (folders, files, contents)
    }

    #[test]
    fn a_generated_workspace_has_the_folders_objects_and_copies_that_were_asked_for() {
        let options = GenerateOptions { notebooks: 2000, folders: 77, files_share: 0.1, ..GenerateOptions::default() };
        let (folders, files, all) = contents(&options);
        assert_eq!((folders, all.len()), (77, 2000));
        assert!((150..250).contains(&files), "{files}");
        let different: HashSet<_> = all.iter().map(|(_, content)| content).collect();
        assert!((1600..1800).contains(&different.len()), "{}", different.len());
        assert!(all.iter().any(|(path, _)| path == "/Clients/2023/ENG-1001/NOTEBOOKS/etl_load_000"));
        assert_eq!(contents(&options).2, all);
        assert_ne!(contents(&GenerateOptions { seed: 2, ..options }).2, all);
    }
}
