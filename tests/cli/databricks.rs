//! A workspace backed up and restored by the binary.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use lakebed_testkit::chance::{Chance, is_soak};
use lakebed_testkit::databricks::{FakeOptions, FakeWorkspace, GenerateOptions, Kind, Language};
use serde_json::Value;

use crate::kit::{Kit, Said};

/// A token that is found wherever it leaks to.
const TOKEN: &str = "dapi-0123456789-very-secret";

fn workspace(options: FakeOptions) -> FakeWorkspace {
    FakeWorkspace::start(FakeOptions { tokens: vec![TOKEN.into()], ..options })
}

fn kit(fake: &FakeWorkspace) -> Kit {
    let kit = Kit::new();
    kit.run(&["init"]).exits(0);
    kit.file("env", &fake.url());
    kit
}

const NO_LIMITS: [&str; 12] = [
    "--rate",
    "list=none",
    "--rate",
    "export=none",
    "--rate",
    "import=none",
    "--rate",
    "workspace=none",
    "--rate",
    "permissions=none",
    "--rate",
    "set-permissions=none",
];

/// Runs the binary with what it needs to know of a workspace.
fn run(kit: &Kit, fake: &FakeWorkspace, args: &[&str]) -> Said {
    let url = fake.url();
    kit.run_with(args, &[("DATABRICKS_HOST", &url), ("DATABRICKS_TOKEN", TOKEN), ("LAKEBED_ALLOW_HTTP", "true")])
}

fn backup(kit: &Kit, fake: &FakeWorkspace, args: &[&str]) -> Said {
    run(kit, fake, &[&["backup", "databricks:///Clients"], &NO_LIMITS[..6], args].concat())
}

/// Every file of the newest snapshot with its content.
fn files(kit: &Kit) -> BTreeMap<PathBuf, Vec<u8>> {
    kit.run(&["restore", "latest", "--target", "restored"]).exits(0);
    let top = kit.path("restored");
    walk(&top)
        .into_iter()
        .map(|path| (path.strip_prefix(&top).unwrap().into(), std::fs::read(&path).unwrap()))
        .collect()
}

#[test]
fn a_night_is_summed_up_for_people_and_for_programs() {
    let fake = workspace(FakeOptions::default());
    fake.generate(&GenerateOptions { notebooks: 30, folders: 8, ..GenerateOptions::default() });
    let kit = kit(&fake);
    backup(&kit, &fake, &[]).exits(0).says("30 export").says("received");
    let result = backup(&kit, &fake, &["--json"]).exits(0).result();
    assert_eq!(result["summary"]["files_unmodified"], 30);
    assert_eq!(result["workspace"]["calls"]["list"], 8);
    assert_eq!(result["workspace"]["calls"]["export"], Value::Null);
    assert_eq!(result["success_rate"], 1.0);
    let snapshots = kit.run(&["snapshots", "--json"]).exits(0).result();
    let host = fake.url().replace("http://", "");
    assert_eq!(snapshots["snapshots"][0]["host"], host.as_str(), "whatever machine takes it");
    backup(&kit, &fake, &["--full-every", "7d"]).exits(0).says("30 unmodified");
    backup(&kit, &fake, &["--full-every", "0"]).exits(0).says("everything was read: 0 files had changed");
    run(&kit, &fake, &["sessions", "list", "--all"]).exits(0).says("4 runs that ended");
}

#[test]
fn a_restore_says_what_it_would_do_and_does_it() {
    let fake = workspace(FakeOptions::default());
    fake.generate(&GenerateOptions { notebooks: 30, folders: 8, ..GenerateOptions::default() });
    let kit = kit(&fake);
    backup(&kit, &fake, &[]).exits(0);
    let before = fake.digest();
    fake.wipe();
    let restore = ["restore", "latest", "--target", "databricks:///", "--rate", "import=none"];
    let dry = run(&kit, &fake, &[&restore[..], &["--dry-run", "--json"]].concat()).exits(0).result();
    assert_eq!(dry["actions"].as_array().unwrap().len(), 38);
    assert!(fake.objects().is_empty());
    run(&kit, &fake, &restore).exits(0).says("30 import");
    assert_eq!(fake.digest(), before);
    // to a folder of this machine as well
    run(&kit, &fake, &["restore", "latest", "--target", "out"]).exits(0);
    let first = fake.objects().into_iter().find(|object| object.language == Some(Language::Python)).unwrap();
    assert_eq!(kit.read(&format!("out{}.py", first.path)).into_bytes(), first.content.unwrap());
}

#[test]
fn what_makes_no_sense_is_told_before_anything_is_asked() {
    let fake = workspace(FakeOptions::default());
    let kit = kit(&fake);
    let usage = |args: &[&str], text: &str| drop(run(&kit, &fake, args).exits(2).says(text));
    usage(&["backup", "databricks:///a", "src"], "snapshots of their own");
    usage(&["backup", "databricks://a/x", "databricks://b/x"], "snapshots of their own");
    usage(&["backup", "databricks://u:password@a/x"], "credentials do not belong there");
    usage(&["backup", "databricks:///x", "--exclude-caches"], "--exclude-caches");
    usage(&["backup", "databricks:///x", "--rate", "sql=1"], "no kind of call");
    usage(&["restore", "latest", "--target", "databricks:///", "--delete"], "--delete");
    usage(&["restore", "latest", "--target", "out", "--with-permissions"], "--with-permissions");
    let http =
        kit.run_with(&["backup", "databricks:///x"], &[("DATABRICKS_HOST", &fake.url()), ("DATABRICKS_TOKEN", TOKEN)]);
    http.exits(1).says("plain HTTP").says("--allow-http");
    kit.run(&["backup", "databricks:///x"]).exits(1).says("DATABRICKS_HOST");
    run(&kit, &fake, &["backup", "databricks:///nothing"]).exits(1).says("RESOURCE_DOES_NOT_EXIST");
    assert_eq!(fake.counters().of(Kind::List), 1);
}

#[test]
fn the_token_is_told_nowhere() {
    let fake = workspace(FakeOptions::default());
    fake.generate(&GenerateOptions { notebooks: 30, folders: 8, ..GenerateOptions::default() });
    let kit = Kit::new();
    kit.run(&["init", "--no-encryption"]).exits(0);
    let mut said =
        vec![backup(&kit, &fake, &["--verbose"]), run(&kit, &fake, &["sessions", "list", "--all", "--json"])];
    // a service that repeats what it was sent
    use lakebed_testkit::databricks::{Action, Rule, Target, When};
    let parrot = Action::Error { status: 400, error_code: "BAD_REQUEST".into(), message: format!("no: {TOKEN}") };
    fake.night(&lakebed_testkit::databricks::NightOptions { changed_share: 0.5, ..Default::default() });
    fake.add_rule(Rule::new(Target::Kind(Kind::Export), When::Every(3), parrot));
    said.push(backup(&kit, &fake, &[]));
    said.push(backup(&kit, &fake, &["--json"]));
    fake.revoke_tokens();
    said.push(backup(&kit, &fake, &[]).exits(1));
    for said in &said {
        assert!(!said.out.contains(TOKEN) && !said.err.contains(TOKEN), "{said:#?}");
    }
    assert!(said[2].err.contains("no: ***"), "{:#?}", said[2]);
    // and in nothing that was written, which is clear here
    for path in walk(kit.folder.path()) {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()), "{}", path.display());
    }
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

/// Kills a backup at random moments. Each run exports nothing that the checkpoint before it holds, and the snapshot in the
/// end is what it is without any trouble.
fn killed(times: u64, notebooks: usize, per_second: u64) {
    let chance = Chance::from_environment(Chance::any_seed);
    let seed = chance.seed();
    let fake = workspace(FakeOptions { latency: Duration::from_millis(5), ..FakeOptions::default() });
    fake.generate(&GenerateOptions { notebooks, folders: notebooks / 8, ..GenerateOptions::default() });
    let calm = kit(&fake);
    backup(&calm, &fake, &[]).exits(0);
    let expected = files(&calm);

    let kit = kit(&fake);
    let checkpoint = || -> u64 {
        let sessions = kit.run(&["sessions", "list", "--json"]).exits(0).result();
        let sessions = sessions["sessions"].as_array().unwrap().clone();
        sessions.iter().filter_map(|session| session["checkpoint"]["files"].as_u64()).max().unwrap_or(0)
    };
    let url = fake.url();
    let mut kills = 0;
    loop {
        let known = checkpoint();
        fake.reset_counters();
        let rate = format!("export={per_second}");
        let interval = ["--checkpoint-interval", "0.05s"];
        let args =
            [&["backup", "databricks:///Clients", "--rate", "list=none", "--rate", &rate], &interval[..]].concat();
        let envs = [("DATABRICKS_HOST", url.as_str()), ("DATABRICKS_TOKEN", TOKEN), ("LAKEBED_ALLOW_HTTP", "true")];
        let mut command = kit.command(&args);
        let mut child = command.envs(envs).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if kills < times {
            std::thread::sleep(Duration::from_millis(20 + chance.below(400)));
            child.kill().unwrap();
        }
        let ended = child.wait().unwrap();
        let exported = fake.counters().of(Kind::Export);
        assert!(exported + known <= notebooks as u64, "seed {seed}: {exported} were exported, {known} were known");
        kills += 1;
        if ended.success() {
            assert_eq!(exported + known, notebooks as u64, "seed {seed}");
            break;
        }
    }
    assert!(files(&kit) == expected, "seed {seed}: another snapshot came of it");
    kit.run(&["verify", "--read-data"]).exits(0);
}

#[test]
fn a_backup_that_is_killed_goes_on_and_exports_nothing_twice() {
    killed(6, 800, 500);
}

#[test]
fn a_backup_that_is_killed_fifty_times_goes_on_and_exports_nothing_twice() {
    if is_soak() {
        killed(50, 8000, 800);
    }
}

/// Runs a script that drives the client library of Databricks, and returns what it prints; `None` where there is no such
/// library: `scripts/databricks-sdk` installs it.
fn sdk(fake: &FakeWorkspace, script: &str, args: &[&str]) -> Option<String> {
    let folder = std::env::var_os("LAKEBED_TEST_SDK")?;
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/databricks");
    let output = std::process::Command::new(PathBuf::from(folder).join("bin/python"))
        .arg(format!("{scripts}/{script}.py"))
        .args(args)
        .envs([("DATABRICKS_HOST", fake.url().as_str()), ("DATABRICKS_TOKEN", TOKEN)])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = crate::kit::said(output).exits(0);
    Some(said.out)
}

#[test]
fn the_client_library_of_databricks_works_with_the_fake() {
    let options = FakeOptions { page_size: 10, empty_page: Some(1), ..FakeOptions::default() };
    for script in ["sdk_reads", "sdk_writes"] {
        let fake = workspace(options.clone());
        fake.generate_extras();
        sdk(&fake, script, &[]);
    }
}

/// The proof of a round trip by somebody else: what the client library reads of a workspace is the same after it was wiped
/// and restored.
#[test]
fn what_the_client_library_reads_is_the_same_after_a_restore() {
    let fake = workspace(FakeOptions::default());
    fake.generate(&GenerateOptions { notebooks: 60, folders: 12, files_share: 0.2, ..GenerateOptions::default() });
    for (n, language) in Language::ALL.into_iter().enumerate() {
        let id = fake.put_notebook(&format!("/Clients/languages/n{n}"), language, b"1 + 1");
        let grant = serde_json::json!({ "user_name": format!("user{n}@example.com"), "permission_level": "CAN_RUN" });
        fake.set_permissions("notebooks", id, &[grant]);
    }
    fake.put_file("/Clients/languages/n0.py", b"a file beside the notebook");
    let kit = kit(&fake);
    let Some(before) = sdk(&fake, "sdk_dump", &["/Clients"]) else { return };
    assert!(before.contains("user2@example.com") && before.contains("SCALA"));
    backup(&kit, &fake, &["--include", "permissions", "--rate", "permissions=none"]).exits(0);
    fake.wipe();
    let restore = ["restore", "latest", "--target", "databricks:///", "--with-permissions"];
    run(&kit, &fake, &[&restore[..], &NO_LIMITS].concat()).exits(0);
    let after = sdk(&fake, "sdk_dump", &["/Clients"]).unwrap();
    assert!(after == before, "before: {before}\nafter: {after}");
}
