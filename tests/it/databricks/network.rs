//! Networks and services that fail: nothing wrong comes into a snapshot, and what can be had comes.

use lakebed_engine::{Error, Monitor, Progress};
use lakebed_testkit::databricks::{Action, RetryAfter, Rule, Target, When};

use super::*;

/// Everything that can go wrong with a call, and go well when it is sent again.
fn passing() -> Vec<Action> {
    let status = |status: u16| Action::Status { status, body: "<html><pre>oops</pre></html>".into() };
    let error = |status: u16, code: &str| Action::Error {
        status,
        error_code: code.into(),
        message: "Please try again later or try a faster operation.".into(),
    };
    vec![
        status(500),
        status(502),
        status(503),
        status(504),
        error(400, "BAD_REQUEST"),
        error(200, "TEMPORARILY_UNAVAILABLE"),
        Action::TooManyRequests,
        Action::HtmlPage,
        Action::EmptyBody,
        Action::CutBody,
        Action::TruncatedBase64,
    ]
}

#[test]
fn whatever_passes_at_any_call_changes_nothing() {
    for action in passing() {
        let fake = FakeWorkspace::start(FakeOptions { retry_after: RetryAfter::Absent, ..FakeOptions::default() });
        for n in 0..4 {
            fake.put_notebook(&format!("/w/{}/n{n}", n % 2), Language::Python, format!("print({n})").as_bytes());
            fake.put_file(&format!("/w/{}/f{n}", n % 2), format!("{n}").as_bytes());
        }
        // three folders, eight objects
        for nth in 1..=11 {
            let (_place, repository) = repository();
            let rule = fake.add_rule(Rule::new(Target::All, When::Nth(nth), action.clone()));
            night(&repository, &fake, roots(&["/w"]));
            fake.remove_rule(rule);
            assert_is(&repository, &fake, "/w");
        }
    }
}

#[test]
fn two_percent_of_calls_that_fail_leave_nothing_out() {
    let fake = FakeWorkspace::start(FakeOptions {
        retry_after: RetryAfter::Absent,
        failure_share: 0.02,
        seed: 5,
        ..FakeOptions::default()
    });
    fake.generate(&GenerateOptions { notebooks: 1000, folders: 100, ..GenerateOptions::default() });
    let (_place, repository) = repository();
    let report = night(&repository, &fake, roots(&["/Clients"]));
    assert_eq!(report.summary.files, 1000);
    assert!(exports(&fake) > 1000, "some had to be sent again");
    assert_is(&repository, &fake, "/Clients");
}

#[test]
fn a_service_is_left_alone_as_long_as_it_asks_for() {
    for retry_after in [RetryAfter::Seconds(0), RetryAfter::Text("0.01".into()), RetryAfter::Date(0)] {
        let fake = FakeWorkspace::start(FakeOptions { retry_after: retry_after.clone(), ..FakeOptions::default() });
        fake.put_notebook("/w/a", Language::Python, b"1");
        fake.add_rule(Rule::new(Target::Kind(Kind::Export), When::First(2), Action::TooManyRequests));
        let (_place, repository) = repository();
        night(&repository, &fake, roots(&["/w"]));
        assert_eq!(exports(&fake), 3, "{retry_after:?}");
    }
}

#[test]
fn an_expired_token_is_renewed_once_for_all_that_wait() {
    let fake = FakeWorkspace::start(FakeOptions { expires_in_text: true, ..FakeOptions::default() });
    fake.generate(&GenerateOptions { notebooks: 300, folders: 40, ..GenerateOptions::default() });
    let url = fake.url();
    let workspace = connect_as(&fake, |name| match name {
        "DATABRICKS_HOST" => Some(url.clone()),
        "DATABRICKS_CLIENT_ID" => Some("fake-client".into()),
        "DATABRICKS_CLIENT_SECRET" => Some("fake-secret".into()),
        _ => None,
    });
    let (_place, repository) = repository();
    // the first look at the root fetches the first token
    fake.add_rule(Rule::new(Target::Kind(Kind::Export), When::Nth(50), Action::ExpiredToken));
    let report =
        try_night(&repository, workspace, roots(&["/Clients"]), &BackupOptions { threads: 0, ..options() }).unwrap();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(fake.counters().tokens_issued, 2);
    assert_is(&repository, &fake, "/Clients");
}

#[test]
fn every_way_to_sign_in_works() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.put_notebook("/w/a", Language::Python, b"1");
    let (url, token) = (fake.url(), fake.token().to_owned());
    let command = format!("printf '{{\"access_token\":\"%s\",\"expires_in\":\"3600\"}}' {token}");
    let plain = format!("echo {token}");
    let identity = format!("{url}/metadata/identity/oauth2/token");
    let resource = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Databricks/workspaces/w";
    let ways: [&[(&str, &str)]; 6] = [
        &[("DATABRICKS_TOKEN", &token)],
        &[("DATABRICKS_CLIENT_ID", "fake-client"), ("DATABRICKS_CLIENT_SECRET", "fake-secret")],
        &[
            ("ARM_TENANT_ID", "tenant"),
            ("ARM_CLIENT_ID", "fake-client"),
            ("ARM_CLIENT_SECRET", "fake-secret"),
            ("DATABRICKS_AZURE_RESOURCE_ID", resource),
        ],
        &[("ARM_USE_MSI", "true"), ("ARM_MSI_ENDPOINT", &identity)],
        &[("LAKEBED_DATABRICKS_TOKEN_COMMAND", &command)],
        &[("LAKEBED_DATABRICKS_TOKEN_COMMAND", &plain)],
    ];
    for way in ways {
        let workspace = connect_as(&fake, |name| match name {
            "DATABRICKS_HOST" | "AZURE_AUTHORITY_HOST" => Some(url.clone()),
            name => way.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
        });
        let (_place, repository) = repository();
        let report = try_night(&repository, workspace, roots(&["/w"]), &options());
        assert_eq!(report.unwrap_or_else(|error| panic!("{way:?}: {error:?}")).summary.files, 1, "{way:?}");
    }
    let headers = fake.counters().azure_headers;
    let known = headers.iter().find(|(name, _)| name.to_ascii_lowercase().ends_with("resource-id"));
    assert_eq!(known.map(|(_, value)| value.as_str()), Some(resource));
}

#[test]
fn a_refused_token_ends_the_run_and_what_was_read_is_kept() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    fake.add_rule(Rule::new(Target::Kind(Kind::Export), When::Nth(60), Action::ExpiredToken));
    let error = try_night(&repository, connect(&fake), roots(&["/Clients"]), &options()).unwrap_err();
    let Error::SourceEnded { reason } = &error else { panic!("{error:?}") };
    assert!(reason.contains("401") && !reason.contains(fake.token()), "{reason}");
    assert!(repository.snapshots(&Default::default()).unwrap().is_empty());

    let before = exports(&fake);
    let report = night(&repository, &fake, roots(&["/Clients"]));
    assert!(report.resumed);
    assert!(exports(&fake) - before <= 120 - 57, "{} were exported again", exports(&fake) - before);
    assert_is(&repository, &fake, "/Clients");
}

/// Does something with the first entry that is finished after the workspace was asked.
struct WithFirst<'a>(&'a FakeWorkspace, std::sync::Once, &'a (dyn Fn() + Sync));

impl Monitor for WithFirst<'_> {
    fn advance(&self, _: Progress) {
        if self.0.counters().total() > 0 {
            self.1.call_once(self.2);
        }
    }
}

#[test]
fn a_service_that_answers_nobody_any_more_ends_the_run() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/Clients"]));
    fake.night(&lakebed_testkit::databricks::NightOptions { changed_share: 1.0, ..Default::default() });
    let status = Action::Status { status: 503, body: String::new() };
    let rule = std::sync::OnceLock::new();
    let silence = || rule.set(fake.add_rule(Rule::new(Target::All, When::Always, status.clone()))).unwrap();
    let source = WorkspaceSource::new(connect(&fake), roots(&["/Clients"])).unwrap();
    let mount = Mount::new(Vec::new(), Arc::new(source));
    fake.reset_counters();
    let monitor = WithFirst(&fake, std::sync::Once::new(), &silence);
    let error = repository.backup(vec![mount], &options(), &monitor).unwrap_err();
    assert!(matches!(error, Error::SourceEnded { .. }), "{error:?}");
    fake.remove_rule(*rule.get().unwrap());
    night(&repository, &fake, roots(&["/Clients"]));
    assert_is(&repository, &fake, "/Clients");
}

#[test]
fn one_object_that_is_never_answered_ends_nothing() {
    let fake = FakeWorkspace::start(FakeOptions::default());
    for name in ["a", "b", "broken 1", "broken 2", "z"] {
        fake.put_notebook(&format!("/w/{name}"), Language::Python, b"1");
    }
    let target = Target::Object { kind: Some(Kind::Export), path: "/w/broken*".into() };
    fake.add_rule(Rule::new(target, When::Always, Action::Status { status: 503, body: String::new() }));
    let (_place, repository) = repository();
    let report =
        try_night(&repository, connect(&fake), roots(&["/w"]), &BackupOptions { threads: 1, ..options() }).unwrap();
    assert_eq!((report.summary.files, report.failures.len()), (3, 2), "{:?}", report.failures);
}

/// Wants a run to end once so many exports were asked for.
struct StopAtExport<'a>(&'a FakeWorkspace, u64);

impl Monitor for StopAtExport<'_> {
    fn is_cancelled(&self) -> bool {
        exports(self.0) >= self.1
    }
}

#[test]
fn who_interrupts_a_run_does_not_wait_for_a_service_that_does_not_answer() {
    let fake = small_workspace();
    let status = Action::Status { status: 503, body: String::new() };
    fake.add_rule(Rule::new(Target::Kind(Kind::Export), When::Always, status));
    let (_place, repository) = repository();
    let url = fake.url();
    let uri = WorkspaceUri::parse(&url.replace("http://", "databricks://")).unwrap();
    let patient = ConnectOptions { retry_for: Some(Duration::from_secs(36_000)), first_pause: None, ..quick() };
    let workspace = Workspace::connect(
        &uri,
        |name| match name {
            "DATABRICKS_HOST" => Some(url.clone()),
            "DATABRICKS_TOKEN" => Some(fake.token().to_owned()),
            _ => None,
        },
        &patient,
    )
    .unwrap();
    let source = WorkspaceSource::new(workspace, roots(&["/Clients"])).unwrap();
    let mount = Mount::new(Vec::new(), Arc::new(source));
    let error = repository.backup(vec![mount], &options(), &StopAtExport(&fake, 2)).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error:?}");
}

/// However an interrupt falls together with a checkpoint: nothing commits that lacks what was let go.
#[test]
fn a_run_that_is_interrupted_at_any_moment_commits_nothing_or_everything() {
    let fake = small_workspace();
    for exports_before in (1..=120).step_by(7) {
        let (_place, repository) = repository();
        fake.reset_counters();
        let source = WorkspaceSource::new(connect(&fake), roots(&["/Clients"])).unwrap();
        let mount = Mount::new(Vec::new(), Arc::new(source));
        let often = BackupOptions { checkpoint_interval: Duration::ZERO, threads: 0, ..options() };
        match repository.backup(vec![mount], &often, &StopAtExport(&fake, exports_before)) {
            Ok(_) => assert_is(&repository, &fake, "/Clients"),
            Err(error) => {
                assert!(matches!(error, Error::Interrupted), "{error:?}");
                assert!(repository.snapshots(&Default::default()).unwrap().is_empty());
            }
        }
        night(&repository, &fake, roots(&["/Clients"]));
        assert_is(&repository, &fake, "/Clients");
    }
}

#[test]
fn a_full_pass_that_was_interrupted_goes_on() {
    let fake = small_workspace();
    let (_place, repository) = repository();
    night(&repository, &fake, roots(&["/Clients"]));
    fake.reset_counters();
    let all = BackupOptions { read_all: true, threads: 1, ..options() };
    let source = WorkspaceSource::new(connect(&fake), roots(&["/Clients"])).unwrap();
    let mount = Mount::new(Vec::new(), Arc::new(source));
    let error = repository.backup(vec![mount], &all, &StopAtExport(&fake, 60)).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error:?}");
    let before = exports(&fake);
    let report = try_night(&repository, connect(&fake), roots(&["/Clients"]), &all).unwrap();
    assert!(report.resumed && report.read_all && report.failures.is_empty(), "{report:?}");
    assert!(exports(&fake) <= 125, "{before} and then {} were exported", exports(&fake) - before);
    assert!(latest(&repository).snapshot.read_all);
}
