//! Restoring into a workspace.

use lakebed_connectors::databricks::{Include, NotebookFormat, WorkspaceTarget, WorkspaceTargetOptions};
use lakebed_engine::Monitor;
use lakebed_engine::restore::{Overwrite, PathFilter, RestoreReport, restore_into};
use lakebed_testkit::databricks::{Action, NightOptions, Object, RetryAfter, Rule, Target, When};

use super::*;

fn into(path: &str) -> WorkspaceTargetOptions {
    let overwrite = Overwrite::default();
    WorkspaceTargetOptions { path: path.into(), overwrite, permissions: false, dry_run: false }
}

fn try_put(
    repository: &Repository,
    fake: &FakeWorkspace,
    options: WorkspaceTargetOptions,
    filter: &PathFilter,
) -> RestoreReport {
    let target = WorkspaceTarget::new(connect(fake), options).unwrap();
    let reader = repository.reader(&Silent).unwrap();
    restore_into(&reader, &latest(repository), &target, filter, &|_, _| {}, &Silent).unwrap()
}

fn put(repository: &Repository, fake: &FakeWorkspace, options: WorkspaceTargetOptions) -> RestoreReport {
    let report = try_put(repository, fake, options, &PathFilter::default());
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    report
}

/// Path, type, language and content.
type What<'o> = (&'o str, &'o str, Option<Language>, Option<&'o [u8]>);

/// What objects are, whatever their ids and times.
fn what(objects: &[Object]) -> Vec<What<'_>> {
    let of = |object: &Object| object.path != "/";
    let objects = objects.iter().filter(|object| of(object));
    objects
        .map(|object| (object.path.as_str(), object.object_type.as_str(), object.language, object.content.as_deref()))
        .collect()
}

#[test]
fn a_workspace_that_was_wiped_comes_back_as_it_was() {
    let fake = small_workspace();
    for (n, language) in Language::ALL.into_iter().enumerate() {
        fake.put_notebook(&format!("/Clients/all/n{n}"), language, b"1 + 1");
    }
    fake.put_file("/Clients/all/n0.py", b"# Databricks notebook source\nthis is a file");
    fake.put_file("/Clients/all/empty", b"");
    fake.put_file("/Clients/all/large.bin", &vec![7; 11_000_000]);
    fake.put_notebook("/Clients/all/a~notebook", Language::Python, b"1");
    fake.mkdirs("/Clients/empty folder/in it");
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/Clients"]));
    let before = fake.objects();
    fake.wipe();
    let report = put(&repository, &fake, into("/"));
    assert_eq!(what(&fake.objects()), what(&before));
    assert_eq!((report.kept, report.replaced), (0, 0));

    // what came back is what the next night finds
    fake.night(&NightOptions { changed_share: 0.1, ..NightOptions::default() });
    night(&repository, &fake, roots(&["/Clients"]));
}

#[test]
fn one_engagement_comes_back_beside_what_is_there() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/Clients"]));
    let before = fake.objects();
    let engagement =
        before.iter().find(|object| object.path.starts_with("/Clients/2024/") && object.language.is_some()).unwrap();
    let engagement: Vec<&str> = engagement.path.split('/').take(4).collect();
    let engagement = engagement.join("/");
    fake.reset_counters();
    let filter = PathFilter::new(&[engagement.trim_start_matches('/').as_bytes().to_vec()], &[], &[]).unwrap();
    let report = try_put(&repository, &fake, into("/Restored"), &filter);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let all = fake.objects();
    let restored: Vec<_> =
        all.iter().filter(|object| object.path.starts_with(&format!("/Restored{engagement}/"))).collect();
    let original: Vec<_> = before.iter().filter(|object| object.path.starts_with(&format!("{engagement}/"))).collect();
    assert_eq!(restored.len(), original.len());
    for (restored, original) in restored.iter().zip(&original) {
        assert_eq!(restored.path, format!("/Restored{}", original.path));
        assert_eq!((&restored.content, restored.language), (&original.content, original.language));
    }
    let elsewhere = all.iter().filter(|object| object.path.starts_with("/Restored/Clients/20")).all(|object| {
        object.path.starts_with(&format!("/Restored{engagement}"))
            || format!("/Restored{engagement}").starts_with(&object.path)
    });
    assert!(elsewhere, "nothing else was made");
}

#[test]
fn what_is_there_is_changed_only_as_the_policy_says() {
    for (overwrite, changed_stays, imports) in [
        (Overwrite::Never, true, 0),
        (Overwrite::IfChanged, false, 1),
        (Overwrite::IfNewer, true, 0),
        (Overwrite::Always, false, 1),
    ] {
        let fake = FakeWorkspace::start(FakeOptions::default());
        fake.put_notebook("/w/same", Language::Python, b"same");
        fake.put_notebook("/w/changed", Language::Python, b"old");
        let (_place, repository) = repository();
        night(&repository, &fake, roots(&["/w"]));
        let old = fake.get("/w/changed").unwrap().content;
        fake.night(&NightOptions { changed_share: 0.0, ..NightOptions::default() });
        fake.put_notebook("/w/changed", Language::Python, b"changed since");
        fake.reset_counters();
        put(&repository, &fake, WorkspaceTargetOptions { overwrite, ..into("/") });
        let is_old = fake.get("/w/changed").unwrap().content == old;
        assert_eq!((is_old, fake.counters().of(Kind::Import)), (!changed_stays, imports), "{overwrite:?}");
    }
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_it_would_do() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/Clients"]));
    fake.remove("/Clients/2024");
    let before = fake.objects();
    let dry = put(&repository, &fake, WorkspaceTargetOptions { dry_run: true, ..into("/") });
    assert_eq!(what(&fake.objects()), what(&before));
    let real = put(&repository, &fake, into("/"));
    assert_eq!((dry.created, dry.replaced, dry.kept), (real.created, real.replaced, real.kept));
    assert!(real.created > 0 && real.kept > 0);
}

#[test]
fn things_of_another_kind_are_in_the_way_unless_they_may_go_and_folders_always() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/w/a", Language::Python, b"1");
    fake.put_notebook("/w/b", Language::Python, b"1");
    fake.put_notebook("/w/sub/c", Language::Python, b"1");
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/w"]));
    let a = fake.get("/w/a").unwrap().content;
    fake.wipe();
    fake.put_file("/w/a", b"a file");
    fake.put_notebook("/w/b/inside", Language::Python, b"a folder");
    fake.put_file("/w/sub", b"a file where a folder was");

    let failed = |report: &RestoreReport| -> Vec<String> {
        let mut paths: Vec<_> = report.failures.iter().map(|failure| failure.path.display().to_string()).collect();
        paths.sort();
        paths
    };
    let report = try_put(&repository, &fake, into("/"), &PathFilter::default());
    assert_eq!(failed(&report), ["w/a.py", "w/b.py", "w/sub"]);
    assert_eq!(fake.get("/w/a").unwrap().content.unwrap(), b"a file");

    let always = WorkspaceTargetOptions { overwrite: Overwrite::Always, ..into("/") };
    let report = try_put(&repository, &fake, always, &PathFilter::default());
    assert_eq!(failed(&report), ["w/b.py", "w/sub"], "no folder is deleted, and no file for a folder");
    assert_eq!(fake.get("/w/a").unwrap().content, a);
    assert!(fake.get("/w/b/inside").is_some());
}

#[test]
fn who_may_do_what_comes_back_with_it() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    let notebook = fake.put_notebook("/w/sub/a", Language::Python, b"1");
    let folder = fake.mkdirs("/w/sub");
    let read = json!({ "user_name": "a@b.c", "permission_level": "CAN_READ" });
    let run = json!({ "group_name": "analysts", "permission_level": "CAN_RUN" });
    fake.set_permissions("notebooks", notebook, std::slice::from_ref(&read));
    fake.set_permissions("directories", folder, std::slice::from_ref(&run));
    let (_place, repository) = repository();
    let taken = || WorkspaceOptions { include: vec![Include::Permissions], ..roots(&["/w"]) };
    night(&repository, &fake, taken());
    let permissions = |repository: &Repository| -> BTreeMap<String, Vec<u8>> {
        let all = latest_tree(repository).into_iter();
        all.filter(|(path, _)| path.ends_with("permissions.json")).map(|(path, (_, bytes))| (path, bytes)).collect()
    };
    let before = permissions(&repository);
    let of_sub: serde_json::Value =
        serde_json::from_slice(&before[".databricks/permissions/w/sub/permissions.json"]).unwrap();
    assert_eq!(of_sub["objects"]["a"], json!([read]));
    let of_w: serde_json::Value =
        serde_json::from_slice(&before[".databricks/permissions/w/permissions.json"]).unwrap();
    assert_eq!(of_w["objects"]["sub"], json!([run]));

    fake.wipe();
    put(&repository, &fake, WorkspaceTargetOptions { permissions: true, ..into("/") });
    night(&repository, &fake, taken());
    assert_eq!(permissions(&repository), before);
}

#[test]
fn of_several_formats_the_source_comes_back() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/w/a", Language::Scala, b"val a = 1");
    let (_place, repository) = repository();
    night(&repository, &fake, WorkspaceOptions { formats: NotebookFormat::ALL.to_vec(), ..roots(&["/w"]) });
    let before = fake.objects();
    fake.wipe();
    let report = put(&repository, &fake, into("/"));
    assert_eq!(what(&fake.objects()), what(&before));
    assert_eq!((report.left_out, fake.counters().of(Kind::Import)), (2, 1));
}

#[test]
fn jupyter_documents_and_archives_come_back_too() {
    for format in [NotebookFormat::Jupyter, NotebookFormat::Dbc] {
        let fake = FakeWorkspace::start(FakeOptions::default());
        fake.put_notebook(
            "/w/a",
            Language::Python,
            b"# Databricks notebook source\nprint(1)\n\n# COMMAND ----------\n\nprint(2)\n",
        );
        let (_place, repository) = repository();
        night(&repository, &fake, WorkspaceOptions { formats: vec![format], ..roots(&["/w"]) });
        let before = fake.objects();
        fake.wipe();
        put(&repository, &fake, into("/"));
        assert_eq!(what(&fake.objects()), what(&before), "{format:?}");
        // and over what is there
        fake.put_notebook("/w/a", Language::Python, b"other");
        put(&repository, &fake, WorkspaceTargetOptions { overwrite: Overwrite::Always, ..into("/") });
        assert_eq!(what(&fake.objects()), what(&before), "{format:?}");
    }
}

#[test]
fn whatever_passes_at_any_call_changes_nothing_of_a_restore() {
    let actions = [
        Action::Status { status: 500, body: String::new() },
        Action::Status { status: 503, body: String::new() },
        Action::TooManyRequests,
        Action::CutBody,
        Action::HtmlPage,
    ];
    let fake = FakeWorkspace::start(FakeOptions { retry_after: RetryAfter::Absent, ..FakeOptions::default() });
    for n in 0..3 {
        fake.put_notebook(&format!("/w/{}/n{n}", n % 2), Language::Python, format!("print({n})").as_bytes());
        fake.put_file(&format!("/w/{}/f{n}", n % 2), format!("{n}").as_bytes());
    }
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/w"]));
    let before = fake.objects();
    for action in actions {
        for nth in 1..=16 {
            fake.wipe();
            let rule = fake.add_rule(Rule::new(Target::All, When::Nth(nth), action.clone()));
            put(&repository, &fake, into("/"));
            fake.remove_rule(rule);
            assert_eq!(what(&fake.objects()), what(&before), "{action:?} at call {nth}");
        }
    }
}

#[test]
fn files_of_volumes_come_back_where_there_is_a_volume() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/w/a", Language::Python, b"1");
    landing_volume(&fake);
    let path = "/Volumes/main/raw/landing/a b/ü%#?.csv";
    let large = vec![9; 20_000_000];
    fake.put_volume_file(path, b"1,2");
    fake.put_volume_file("/Volumes/main/raw/landing/large.bin", &large);
    let (_place, repository) = repository();
    night(&repository, &fake, WorkspaceOptions { include: vec![Include::Volumes], ..roots(&["/w"]) });
    fake.remove_volume_file(path);
    fake.remove_volume_file("/Volumes/main/raw/landing/large.bin");
    put(&repository, &fake, into("/"));
    assert_eq!(fake.volume_file(path).unwrap(), b"1,2");
    assert!(fake.volume_file("/Volumes/main/raw/landing/large.bin").unwrap() == large);
}

#[test]
fn a_snapshot_of_a_folder_becomes_notebooks_and_files() {
    let (place, repository) = repository();
    let source = place.path("export");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("etl.py"), "# Databricks notebook source\nprint(1)").unwrap();
    std::fs::write(source.join("sub/lib.py"), "def f(): pass").unwrap();
    backup(&repository, std::slice::from_ref(&source));
    let below = source.strip_prefix("/").unwrap().display().to_string();
    let fake = FakeWorkspace::start(FakeOptions::default());
    let filter = PathFilter::new(&[below.clone().into_bytes()], &[], &[]).unwrap();
    let report = try_put(&repository, &fake, into("/Restored"), &filter);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let notebook = fake.get(&format!("/Restored/{below}/etl")).unwrap();
    assert_eq!((notebook.object_type.as_str(), notebook.language), ("NOTEBOOK", Some(Language::Python)));
    assert_eq!(fake.get(&format!("/Restored/{below}/sub/lib.py")).unwrap().object_type, "FILE");
}

#[test]
fn newer_work_is_kept_also_where_nobody_knows_when_it_was_done() {
    for unknown in [None, Some(0)] {
        let fake = FakeWorkspace::start(FakeOptions::default());
        fake.put_notebook("/w/a", Language::Python, b"old");
        let (_place, repository) = repository();
        night(&repository, &fake, roots(&["/w"]));
        fake.put_notebook("/w/a", Language::Python, b"newer");
        fake.set_modified_at("/w/a", unknown);
        let newer = fake.get("/w/a").unwrap().content;
        put(&repository, &fake, WorkspaceTargetOptions { overwrite: Overwrite::IfNewer, ..into("/") });
        assert_eq!(fake.get("/w/a").unwrap().content, newer, "{unknown:?}");
    }
}

#[test]
fn what_had_to_go_first_is_put_back_where_the_import_fails() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/w/a", Language::Python, b"in the snapshot");
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/w"]));
    fake.remove("/w/a");
    fake.put_file("/w/a", b"a file that came since");
    fake.add_rule(Rule::new(Target::Kind(Kind::Import), When::Nth(1), Action::Forbidden));
    let always = WorkspaceTargetOptions { overwrite: Overwrite::Always, ..into("/") };
    let report = try_put(&repository, &fake, always, &PathFilter::default());
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    let told = format!("{:?}", report.failures[0].error);
    assert!(told.contains("what was there was put back"), "{told}");
    assert_eq!(fake.get("/w/a").unwrap().content.unwrap(), b"a file that came since");
}

#[test]
fn what_no_backup_can_hold_is_never_deleted_for_a_restore() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/w/a", Language::Python, b"1");
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/w"]));
    fake.remove("/w/a");
    fake.put_object("/w/a", "MLFLOW_EXPERIMENT");
    let always = WorkspaceTargetOptions { overwrite: Overwrite::Always, ..into("/") };
    let report = try_put(&repository, &fake, always, &PathFilter::default());
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    assert_eq!(fake.get("/w/a").unwrap().object_type, "MLFLOW_EXPERIMENT");
}

#[test]
fn only_folders_of_what_is_restored_are_made() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/w/one/a", Language::Sql, b"select 1");
    fake.put_notebook("/w/two/b", Language::Python, b"1");
    let (_place, repository) = repository();
    night(&repository, &fake, WorkspaceOptions { formats: NotebookFormat::ALL.to_vec(), ..roots(&["/w"]) });
    fake.wipe();
    let filter = PathFilter::new(&[], &["*.sql".into()], &[]).unwrap();
    let report = try_put(&repository, &fake, into("/"), &filter);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert!(fake.get("/w/one/a").is_some() && fake.get("/w/two").is_none());
    // another format by its name
    let filter = PathFilter::new(&[b"w/two/b.ipynb".to_vec()], &[], &[]).unwrap();
    let report = try_put(&repository, &fake, into("/"), &filter);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert!(fake.get("/w/two/b").is_some());
}

/// Wants a restore to end once something was imported.
struct StopAtImport<'a>(&'a FakeWorkspace);

impl Monitor for StopAtImport<'_> {
    fn is_cancelled(&self) -> bool {
        self.0.counters().of(Kind::Import) > 0
    }
}

#[test]
fn who_interrupts_a_restore_loses_nothing_that_had_to_go_first() {
    let fake = FakeWorkspace::start(FakeOptions { retry_after: RetryAfter::Absent, ..FakeOptions::default() });
    fake.put_notebook("/w/a", Language::Python, b"in the snapshot");
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/w"]));
    let old = fake.get("/w/a").unwrap().content;
    fake.remove("/w/a");
    fake.put_file("/w/a", b"a file that came since");
    // so long that the interrupt comes in between
    fake.add_rule(Rule::new(Target::Kind(Kind::Import), When::First(8), Action::TooManyRequests));
    let always = WorkspaceTargetOptions { overwrite: Overwrite::Always, ..into("/") };
    let target = WorkspaceTarget::new(connect(&fake), always).unwrap();
    let reader = repository.reader(&Silent).unwrap();
    let info = latest(&repository);
    let result = restore_into(&reader, &info, &target, &PathFilter::default(), &|_, _| {}, &StopAtImport(&fake));
    assert!(result.is_err(), "{result:?}");
    let there = fake.get("/w/a").expect("something is there").content;
    assert!(there == old || there.as_deref() == Some(b"a file that came since"));
}
