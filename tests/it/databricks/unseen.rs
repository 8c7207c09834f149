//! What a workspace does not show is not taken for deleted.

use lakebed_engine::Error;
use lakebed_testkit::databricks::{Action, Rule, Target, TooLarge, When};

use super::*;

/// Lets everything below a path be refused.
fn hide(fake: &FakeWorkspace, path: &str, action: Action) -> lakebed_testkit::databricks::RuleId {
    fake.add_rule(Rule::new(Target::Subtree(path.into()), When::Always, action))
}

fn below<'t>(tree: &'t BTreeMap<String, (Entry, Vec<u8>)>, path: &str) -> Vec<(&'t String, &'t Vec<u8>)> {
    tree.iter().filter(|(name, _)| name.starts_with(path)).map(|(name, (_, content))| (name, content)).collect()
}

#[test]
fn a_folder_that_cannot_be_listed_any_more_is_kept_as_it_was_and_told() {
    for action in [Action::NotFound, Action::Forbidden] {
        let fake = small_workspace();
        let (_place, repository) = repository();
        night(&repository, &fake, roots(&["/Clients"]));
        let before = latest_tree(&repository);
        let rule = hide(&fake, "/Clients/2024", action.clone());

        // twice: a partial snapshot is as good a parent
        for _ in 0..2 {
            let report = try_night(&repository, connect(&fake), roots(&["/Clients"]), &options()).unwrap();
            assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
            let failure = &report.failures[0];
            assert_eq!(failure.path, "Clients/2024");
            assert!(failure.reason.contains("kept as in the snapshot before"), "{}", failure.reason);
            let info = report.snapshot.unwrap();
            assert!(!info.snapshot.is_complete());
            let now = tree_of(&repository, &info);
            assert!(now["Clients/2024"].0.inconsistent, "it is flagged");
            assert_eq!(below(&now, "Clients/"), below(&before, "Clients/"), "{action:?}");
            let kept = below(&before, "Clients/2024/")
                .iter()
                .filter(|(name, _)| before[*name].0.kind == EntryKind::File)
                .count();
            assert_eq!(report.summary.files_unseen, kept as u64);
            assert_eq!(report.summary.files, 120);
        }
        fake.remove_rule(rule);
        fake.reset_counters();
        night(&repository, &fake, roots(&["/Clients"]));
        assert_eq!(exports(&fake), 0, "what was kept is still known");
        assert!(!latest_tree(&repository)["Clients/2024"].0.inconsistent);
        assert_is(&repository, &fake, "/Clients");
        assert_good(&repository);
    }
}

#[test]
fn a_folder_that_was_never_seen_is_a_failure_and_empty() {
    let fake = small_workspace();
    hide(&fake, "/Clients/2024", Action::NotFound);
    let (_place, repository) = repository();
    let report = try_night(&repository, connect(&fake), roots(&["/Clients"]), &options()).unwrap();
    assert_eq!(report.failures.len(), 1);
    assert!(!report.failures[0].reason.contains("kept"), "{}", report.failures[0].reason);
    assert!(below(&latest_tree(&repository), "Clients/2024/").is_empty());
}

#[test]
fn what_was_really_deleted_is_gone() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/Clients"]));
    fake.remove("/Clients/2024");
    night(&repository, &fake, roots(&["/Clients"]));
    assert!(below(&latest_tree(&repository), "Clients/2024").is_empty());
    assert_is(&repository, &fake, "/Clients");
}

#[test]
fn a_notebook_that_cannot_be_exported_is_kept_as_it_was() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/w/a", Language::Python, b"old");
    fake.put_notebook("/w/b", Language::Python, b"other");
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/w"]));
    let old = latest_tree(&repository)["w/a.py"].1.clone();
    fake.put_notebook("/w/a", Language::Python, b"new");
    fake.put_notebook("/w/new", Language::Python, b"never seen");
    let target = Target::Object { kind: Some(Kind::Export), path: "/w/*".into() };
    let rule = fake.add_rule(Rule::new(target, When::Always, Action::Forbidden));
    let report = try_night(&repository, connect(&fake), roots(&["/w"]), &options()).unwrap();
    let tree = latest_tree(&repository);
    assert_eq!(tree["w/a.py"].1, old);
    assert!(tree["w/a.py"].0.inconsistent && !tree["w/b.py"].0.inconsistent);
    assert!(!tree.contains_key("w/new.py"), "there is nothing to keep");
    let failed: Vec<&str> = report.failures.iter().map(|failure| failure.path.as_str()).collect();
    assert_eq!(failed, ["w/a.py", "w/new.py"]);
    // it is asked for again, though nothing about it has changed since
    fake.remove_rule(rule);
    night(&repository, &fake, roots(&["/w"]));
    assert_is(&repository, &fake, "/w");
}

#[test]
fn a_root_that_is_gone_is_kept_beside_others_and_an_error_alone() {
    let fake = small_workspace();
    fake.put_notebook("/Shared/n", Language::Python, b"1");
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/Clients", "/Shared"]));
    let before = latest_tree(&repository);
    hide(&fake, "/Clients", Action::NotFound);
    let report = try_night(&repository, connect(&fake), roots(&["/Clients", "/Shared"]), &options()).unwrap();
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    assert_eq!(below(&latest_tree(&repository), "Clients/"), below(&before, "Clients/"));
    assert_eq!(report.summary.files_unseen, 120);
    assert!(latest_tree(&repository)["Clients"].0.inconsistent);

    let error = try_night(&repository, connect(&fake), roots(&["/Clients"]), &options()).unwrap_err();
    assert!(matches!(error, Error::Root { .. }), "{error:?}");
}

#[test]
fn what_is_too_large_in_any_form_is_fetched_otherwise_or_told() {
    use TooLarge::{BadRequest, MaxNotebookSize, OkWithError, ReasonOnly};
    for form in [MaxNotebookSize, BadRequest, ReasonOnly, OkWithError] {
        let fake =
            FakeWorkspace::start(FakeOptions { too_large_form: form, size_limit: 5000, ..FakeOptions::default() });
        let large = vec![b'x'; 6000];
        fake.put_notebook("/w/notebook", Language::Python, &large);
        fake.put_file("/w/file.bin", &large);
        fake.put_notebook("/w/small", Language::Python, b"1");
        let (_place, repository) = repository();
        let report = try_night(&repository, connect(&fake), roots(&["/w"]), &options()).unwrap();
        let tree = latest_tree(&repository);
        assert!(report.failures.len() == 1, "{form:?}: {:?}", report.failures);
        assert_eq!(tree["w/file.bin"].1, large, "{form:?}");
        assert!(tree.contains_key("w/small.py") && !tree.contains_key("w/notebook.py"), "{form:?}");
        let failed: Vec<&str> = report.failures.iter().map(|failure| failure.path.as_str()).collect();
        assert_eq!(failed, ["w/notebook.py"], "{form:?}");
    }
}

#[test]
fn too_many_failures_make_no_snapshot_and_lose_no_work() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    let target = Target::Object { kind: Some(Kind::Export), path: "/Clients/2024/*".into() };
    let rule = fake.add_rule(Rule::new(target, When::Always, Action::Forbidden));
    let few = BackupOptions { max_failures: Some(2), ..options() };
    let error = try_night(&repository, connect(&fake), roots(&["/Clients"]), &few).unwrap_err();
    assert!(matches!(error, Error::TooManyFailures { max: 2 }), "{error:?}");
    assert!(repository.snapshots(&Default::default()).unwrap().is_empty());
    fake.remove_rule(rule);
    let report = night(&repository, &fake, roots(&["/Clients"]));
    assert!(report.resumed);
    assert_is(&repository, &fake, "/Clients");
}

#[test]
fn a_workspace_that_shrank_makes_no_snapshot_unless_it_may() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/Clients"]));
    fake.remove("/Clients/2024");
    let brake = BackupOptions { max_shrink: Some(0.2), ..options() };
    let error = try_night(&repository, connect(&fake), roots(&["/Clients"]), &brake).unwrap_err();
    assert!(matches!(error, Error::Shrunk { parent_files: 120, .. }), "{error:?}");
    assert_eq!(repository.snapshots(&Default::default()).unwrap().len(), 1);
    let allowed = BackupOptions { max_shrink: Some(0.9), ..options() };
    try_night(&repository, connect(&fake), roots(&["/Clients"]), &allowed).unwrap();
    assert_is(&repository, &fake, "/Clients");
}

#[test]
fn a_volume_that_cannot_be_read_in_one_version_is_told_and_kept_as_it_was() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/w/a", Language::Python, b"1");
    landing_volume(&fake);
    let path = "/Volumes/main/raw/landing/large.bin";
    fake.put_volume_file(path, &vec![1; 20_000_000]);
    let (_place, repository) = repository();
    let taken =
        || WorkspaceOptions { include: vec![lakebed_connectors::databricks::Include::Volumes], ..roots(&["/w"]) };
    night(&repository, &fake, taken());
    fake.put_volume_file(path, &vec![2; 20_000_000]);
    // a server that ignores ranges gives what cannot be put together
    fake.add_rule(Rule::new(Target::Kind(Kind::Files), When::Always, Action::IgnoreRange));
    let report = try_night(&repository, connect(&fake), taken(), &options()).unwrap();
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    let tree = latest_tree(&repository);
    let (entry, content) = &tree["Volumes/main/raw/landing/large.bin"];
    assert!(entry.inconsistent && content.iter().all(|byte| *byte == 1));
}

#[test]
fn a_single_notebook_that_is_gone_is_kept_beside_other_paths() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    for path in ["/w/a", "/w/sub/b", "/x/c"] {
        fake.put_notebook(path, Language::Python, path.as_bytes());
    }
    let (_place, repository) = repository();
    let taken = || roots(&["/w/a", "/w/sub", "/x"]);
    night(&repository, &fake, taken());
    let before = latest_tree(&repository);
    hide(&fake, "/w/a", Action::NotFound);
    let report = try_night(&repository, connect(&fake), taken(), &options()).unwrap();
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    let now = latest_tree(&repository);
    assert_eq!(below(&now, ""), below(&before, ""));
    assert!(now["w/a.py"].0.inconsistent && !now["w/sub/b.py"].0.inconsistent);
    assert_good(&repository);
}
