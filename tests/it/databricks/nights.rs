//! What a night costs, and what it brings.

use lakebed_connectors::databricks::{Include, NotebookFormat};
use lakebed_engine::source::{Filter, FilterOptions, FilteredSource};
use lakebed_testkit::databricks::NightOptions;

use super::*;

#[test]
fn an_unchanged_night_lists_and_exports_nothing() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    let first = night(&repository, &fake, roots(&["/Clients"]));
    assert_eq!((first.summary.files, exports(&fake)), (120, 120));
    assert_is(&repository, &fake, "/Clients");
    let lists = fake.counters().of(Kind::List);
    fake.reset_counters();

    let second = night(&repository, &fake, roots(&["/Clients"]));
    assert_eq!((second.summary.files_unmodified, second.summary.bytes_new), (120, 0));
    let counters = fake.counters();
    assert_eq!((counters.of(Kind::List), counters.total()), (lists, lists), "one call for each folder, and no other");
    assert_eq!(latest(&repository).snapshot.parent, first.snapshot.map(|info| info.id));
}

#[test]
fn exactly_what_changed_is_exported() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/Clients"]));
    for _ in 0..3 {
        let options = NightOptions { changed_share: 0.05, new: 3, deleted: 2, renamed: 0, seed: 7 };
        let changed = fake.night(&options);
        fake.reset_counters();
        let report = night(&repository, &fake, roots(&["/Clients"]));
        assert_eq!(report.summary.files_changed, changed.changed.len() as u64);
        assert_eq!(report.summary.files_new, changed.new.len() as u64);
        assert_eq!(exports(&fake), (changed.changed.len() + changed.new.len()) as u64);
        assert_is(&repository, &fake, "/Clients");
    }
    assert_good(&repository);
}

#[test]
fn what_was_moved_is_recognised() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/Clients"]));
    fake.night(&NightOptions { changed_share: 0.0, new: 0, deleted: 0, renamed: 10, seed: 7 });
    fake.rename("/Clients/2024", "/Clients/2019");
    fake.reset_counters();
    let report = night(&repository, &fake, roots(&["/Clients"]));
    assert_eq!((exports(&fake), report.summary.files_new), (0, 0));
    assert_is(&repository, &fake, "/Clients");
}

#[test]
fn what_was_moved_and_changed_is_exported() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/Clients"]));
    fake.rename("/Clients/2024", "/Clients/2019");
    let moved =
        fake.objects().into_iter().find(|object| object.path.starts_with("/Clients/2019") && object.language.is_some());
    fake.modify(&moved.unwrap().path);
    fake.reset_counters();
    night(&repository, &fake, roots(&["/Clients"]));
    assert_eq!(exports(&fake), 1);
    assert_is(&repository, &fake, "/Clients");
}

#[test]
fn an_unknown_time_of_change_means_export_again() {
    for unknown in [None, Some(0)] {
        let fake = FakeWorkspace::start(FakeOptions::default());
        fake.put_notebook("/a", Language::Python, b"1");
        fake.put_notebook("/b", Language::Python, b"2");
        fake.set_modified_at("/a", unknown);
        let (_place, repository) = repository();
        night(&repository, &fake, roots(&["/"]));
        fake.reset_counters();
        night(&repository, &fake, roots(&["/"]));
        assert_eq!(exports(&fake), 1, "{unknown:?}");
    }
}

#[test]
fn a_time_that_goes_back_is_a_change() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/a", Language::Python, b"1");
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/"]));
    fake.put_notebook("/a", Language::Python, b"2");
    fake.set_modified_at("/a", Some(1_500_000_000_000));
    night(&repository, &fake, roots(&["/"]));
    assert_is(&repository, &fake, "/");
}

#[test]
fn what_changed_just_before_a_run_is_read_again_by_the_next() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/a", Language::Python, b"1");
    let (_place, repository) = repository();
    let now = repository.clock().now().secs * 1000;
    fake.set_modified_at("/a", Some(now));
    night(&repository, &fake, roots(&["/"]));
    // changed once more after it was read, within the same tick of the workspace's clock
    fake.put_notebook("/a", Language::Python, b"2");
    fake.set_modified_at("/a", Some(now));
    night(&repository, &fake, roots(&["/"]));
    assert_is(&repository, &fake, "/");
}

#[test]
fn a_full_night_reads_everything_and_tells_what_was_not_as_it_looked() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    fake.put_notebook("/Clients/a", Language::Python, b"1");
    fake.set_modified_at("/Clients/a", Some(1_500_000_000_000));
    night(&repository, &fake, roots(&["/Clients"]));
    fake.put_notebook("/Clients/a", Language::Python, b"2");
    fake.set_modified_at("/Clients/a", Some(1_500_000_000_000));
    // nothing shows it
    assert_eq!(night(&repository, &fake, roots(&["/Clients"])).summary.files_changed, 0);

    fake.reset_counters();
    let all = BackupOptions { read_all: true, ..options() };
    let report = try_night(&repository, connect(&fake), roots(&["/Clients"]), &all).unwrap();
    assert_eq!((report.mistaken, exports(&fake)), (1, 121));
    assert_is(&repository, &fake, "/Clients");
}

#[test]
fn several_paths_make_one_snapshot_and_nothing_beside_them_is_listed() {
    let fake = small_workspace();
    fake.put_notebook("/Shared/common", Language::Sql, b"select 1");
    fake.put_notebook("/Users/a@b.c/private", Language::Sql, b"select 2");
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/Clients/2024", "/Shared/common"]));
    let tree = latest_tree(&repository);
    assert!(tree.contains_key("Shared/common.sql") && tree.keys().any(|path| path.starts_with("Clients/2024/")));
    assert!(!tree.keys().any(|path| path.starts_with("Clients/2023") || path.starts_with("Users")));
    let sources = latest(&repository).snapshot.sources;
    let paths: Vec<&str> = sources.iter().map(|source| source.path.as_str()).collect();
    assert_eq!(paths, ["Clients/2024", "Shared/common"]);
    assert!(sources[0].uri.ends_with("/Clients/2024") && sources[0].uri.starts_with("databricks://127.0.0.1:"));
}

#[test]
fn names_that_would_be_one_are_told_apart_and_odd_ones_are_kept() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    let source = b"# Databricks notebook source\nprint(1)";
    fake.put_notebook("/w/x", Language::Python, source);
    fake.put_file("/w/x.py", b"a file");
    fake.put_notebook("/w/X", Language::Sql, b"select 1");
    fake.put_notebook("/w/folder.py", Language::Scala, b"1");
    fake.mkdirs("/w/folder.py.scala");
    let odd = ["a:b", "50%", "#1", "what?", "two words", "back\\slash", "é", "e\u{301}", "🦀", &"n".repeat(252)];
    for name in odd {
        fake.put_notebook(&format!("/w/{name}"), Language::Python, name.as_bytes());
        fake.put_file(&format!("/w/{name}.bin"), name.as_bytes());
    }
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/w"]));
    let tree = latest_tree(&repository);
    assert_eq!(tree["w/x.py"].1, b"a file");
    assert_eq!(tree["w/x~notebook.py"].1, fake.get("/w/x").unwrap().content.unwrap());
    assert!(tree.contains_key("w/X.sql") && tree.contains_key("w/folder.py~notebook.scala"));
    for name in odd {
        let file = &tree[&format!("w/{}.bin", escape_path(name.as_bytes()))];
        assert_eq!(file.1, name.as_bytes());
        let content = fake.get(&format!("/w/{name}")).unwrap().content.unwrap();
        let is_it = |(entry, bytes): &&(Entry, Vec<u8>)| *bytes == content && entry.name.ends_with(b".py");
        assert!(tree.values().any(|found| is_it(&found)), "{name}");
    }
    fake.reset_counters();
    night(&repository, &fake, roots(&["/w"]));
    assert_eq!(exports(&fake), 0);
}

#[test]
fn notebooks_are_taken_in_the_formats_that_are_asked_for() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/w/a", Language::Scala, b"val a = 1");
    let (_place, repository) = repository();
    let taken = WorkspaceOptions { formats: NotebookFormat::ALL.to_vec(), ..roots(&["/w"]) };
    night(&repository, &fake, taken.clone());
    let tree = latest_tree(&repository);
    assert!(tree["w/a.scala"].1.starts_with(b"// Databricks notebook source"));
    assert!(tree["w/a.ipynb"].1.starts_with(b"{") && tree["w/a.dbc"].1.starts_with(b"PK"));
    fake.reset_counters();
    night(&repository, &fake, taken);
    assert_eq!(exports(&fake), 0);
}

#[test]
fn trash_git_folders_and_what_a_pattern_leaves_out_are_not_even_listed() {
    let fake = FakeWorkspace::start(FakeOptions { keep_log: true, ..FakeOptions::default() });
    fake.put_notebook("/Users/a@b.c/keep", Language::Python, b"1");
    fake.put_notebook("/Users/a@b.c/Trash/gone", Language::Python, b"1");
    fake.put_notebook("/Users/Trash/keep", Language::Python, b"a user of that name");
    fake.put_object("/Repos/team/code", "REPO");
    fake.put_notebook("/Repos/team/code/n", Language::Python, b"1");
    fake.put_notebook("/Shared/git/n", Language::Python, b"1");
    fake.set_git_folder("/Shared/git", true);
    fake.put_notebook("/Shared/scratch/n", Language::Python, b"1");
    let (_place, repository) = repository();
    let taken = WorkspaceOptions { without_trash: true, without_git_folders: true, ..roots(&["/"]) };
    let source = Arc::new(WorkspaceSource::new(connect(&fake), taken).unwrap());
    let left_out = FilterOptions { exclude: vec!["/Shared/scratch/".into()], ..FilterOptions::default() };
    let filter = Arc::new(Filter::new(&left_out).unwrap());
    let filtered = FilteredSource::new(source, filter, Vec::new());
    repository.backup(vec![Mount::new(Vec::new(), Arc::new(filtered))], &options(), &Silent).unwrap();
    let files: Vec<String> = latest_tree(&repository)
        .into_iter()
        .filter(|(_, (entry, _))| entry.kind == EntryKind::File)
        .map(|(path, _)| path)
        .collect();
    assert_eq!(files, ["Users/Trash/keep.py", "Users/a@b.c/keep.py"]);
    let asked: Vec<String> = fake.log().into_iter().filter_map(|request| request.query).collect();
    for never in ["scratch", "Trash%2F", "git", "code"] {
        assert!(
            !asked.iter().any(|query| query.contains(never) && !query.contains("Users%2FTrash")),
            "{never}: {asked:?}"
        );
    }
}

#[test]
fn what_no_export_gives_is_counted_and_no_failure() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/a", Language::Python, b"1");
    for kind in ["LIBRARY", "DASHBOARD", "MLFLOW_EXPERIMENT"] {
        fake.put_object(&format!("/{kind}"), kind);
    }
    let (_place, repository) = repository();
    let source = WorkspaceSource::new(connect(&fake), roots(&["/"])).unwrap();
    let mount = Mount::new(Vec::new(), Arc::new(source.clone()));
    let report = repository.backup(vec![mount], &options(), &Silent).unwrap();
    assert_eq!((report.failures.len(), report.summary.files), (0, 1));
    let kinds: Vec<String> = source.left_out().into_keys().collect();
    assert_eq!(kinds, ["DASHBOARD", "LIBRARY", "MLFLOW_EXPERIMENT"]);
}

/// Everything that a workspace can be described by.
fn with_all(root: &str) -> WorkspaceOptions {
    WorkspaceOptions { include: Include::ALL.to_vec(), ..roots(&[root]) }
}

#[test]
fn descriptions_are_whole_and_the_same_every_night() {
    let fake = FakeWorkspace::start(FakeOptions { page_size: 2, empty_page: Some(1), ..FakeOptions::default() });
    fake.put_notebook("/Clients/a", Language::Python, b"1");
    fake.generate_extras();
    let (_place, repository) = repository();
    let report = try_night(&repository, connect(&fake), with_all("/Clients"), &options()).unwrap();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let tree = latest_tree(&repository);
    let files = |below: &str| -> Vec<(&String, serde_json::Value)> {
        let files = tree.iter().filter(|(path, _)| path.starts_with(below) && path.ends_with(".json"));
        files.map(|(path, (_, bytes))| (path, serde_json::from_slice(bytes).unwrap())).collect()
    };
    let tasks = |job: &serde_json::Value| job["settings"]["tasks"].as_array().map_or(0, Vec::len);
    assert!(files(".databricks/jobs/").iter().any(|(_, job)| tasks(job) == 250), "no job lacks tasks");
    for kind in ["pipelines", "dashboards", "secret-scopes", "permissions"] {
        assert!(!files(&format!(".databricks/{kind}/")).is_empty(), "{kind}");
    }
    let tables: Vec<_> = files(".databricks/catalogs/");
    assert!(tables.iter().any(|(path, table)| path.contains("/tables/") && table["grants"].is_array()));
    assert!(tables.iter().any(|(_, table)| !table["definition"]["table_constraints"].is_null()), "asked one by one");
    assert!(files(".databricks/secret-scopes/").iter().all(|(_, scope)| !scope.to_string().contains("\"value\"")));

    let again = try_night(&repository, connect(&fake), with_all("/Clients"), &options()).unwrap();
    assert_eq!(
        (again.summary.files_changed, again.summary.bytes_new),
        (report.summary.files - again.summary.files_unmodified, 0)
    );
    assert_eq!(latest(&repository).snapshot.root, report.snapshot.unwrap().snapshot.root, "keys are in order");
}

#[test]
fn files_of_volumes_come_whole_and_only_when_they_changed() {
    let fake = FakeWorkspace::start(FakeOptions { page_size: 2, ..FakeOptions::default() });
    fake.put_notebook("/Clients/a", Language::Python, b"1");
    landing_volume(&fake);
    let large: Vec<u8> = (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let below = "/Volumes/main/raw/landing";
    fake.put_volume_file(&format!("{below}/large.bin"), &large);
    fake.put_volume_file(&format!("{below}/a b/ü%#?.csv"), b"1,2");
    fake.put_volume_file(&format!("{below}/a b/empty"), b"");
    for n in 0..5 {
        fake.put_volume_file(&format!("{below}/many/{n}"), format!("{n}").as_bytes());
    }
    let (_place, repository) = repository();
    let taken = || WorkspaceOptions { include: vec![Include::Volumes], ..roots(&["/Clients"]) };
    night(&repository, &fake, taken());
    let tree = latest_tree(&repository);
    assert!(tree["Volumes/main/raw/landing/large.bin"].1 == large);
    assert_eq!(tree["Volumes/main/raw/landing/a b/ü%#?.csv"].1, b"1,2");
    assert_eq!(tree["Volumes/main/raw/landing/a b/empty"].1, b"");
    assert_eq!(tree.keys().filter(|path| path.contains("/many/")).count(), 5);

    let report = night(&repository, &fake, taken());
    assert_eq!((report.summary.files_unmodified, report.summary.bytes_read), (report.summary.files, 0));
    fake.put_volume_file(&format!("{below}/many/3"), b"other");
    let report = night(&repository, &fake, taken());
    assert_eq!((report.summary.files_changed, report.summary.bytes_read), (1, 5));
}
