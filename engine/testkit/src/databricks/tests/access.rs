//! Who may call: tokens, and where they come from.

use serde_json::Value;

use super::{Reply, ask, ask_with, get, started, workspace};
use crate::databricks::{FakeOptions, FakeWorkspace, Kind};

const ME: &str = "/api/2.0/preview/scim/v2/Me";
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const DATABRICKS: &str = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d";

fn me(workspace: &FakeWorkspace, token: &str) -> Reply {
    ask_with(workspace, "GET", ME, &[("Authorization", &format!("Bearer {token}"))], b"")
}

fn service_principal(workspace: &FakeWorkspace) -> Value {
    let form = b"grant_type=client_credentials&scope=all-apis";
    // fake-client:fake-secret
    let basic = ("Authorization", "Basic ZmFrZS1jbGllbnQ6ZmFrZS1zZWNyZXQ=");
    ask_with(workspace, "POST", "/oidc/v1/token", &[basic, FORM], form).json()
}

fn entra(workspace: &FakeWorkspace, secret: &str, resource: &str) -> Reply {
    let form =
        format!("grant_type=client_credentials&client_id=fake-client&client_secret={secret}&resource={resource}");
    ask_with(workspace, "POST", "/tenant/oauth2/token", &[FORM], form.as_bytes())
}

fn token(answer: &Value) -> String {
    answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn calls_need_a_token_that_is_known() {
    let workspace = workspace();
    let unauthenticated = (401, "UNAUTHENTICATED".to_owned());
    assert_eq!(ask_with(&workspace, "GET", ME, &[], b"").error(), unauthenticated);
    assert_eq!(me(&workspace, "wrong").error(), unauthenticated);
    let known = me(&workspace, workspace.token());
    assert_eq!((known.status, known.header("x-databricks-org-id").is_some()), (200, true));
    workspace.revoke_tokens();
    assert_eq!(me(&workspace, workspace.token()).error(), unauthenticated);
    workspace.add_token("another");
    assert_eq!(me(&workspace, "another").status, 200);
}

#[test]
fn tokens_are_given_to_service_principals_in_all_ways_and_counted() {
    let workspace = workspace();
    let discovery = get(&workspace, "/oidc/.well-known/oauth-authorization-server").json();
    assert_eq!(discovery["token_endpoint"], format!("{}/oidc/v1/token", workspace.url()));
    let given = service_principal(&workspace);
    assert_eq!((given["expires_in"].as_u64(), me(&workspace, &token(&given)).status), (Some(3600), 200));
    assert_eq!(ask(&workspace, "POST", "/oidc/v1/token", b"").status, 415);

    let given = entra(&workspace, "fake-secret", DATABRICKS).json();
    assert_eq!((given["expires_in"].as_str(), me(&workspace, &token(&given)).status), (Some("3600"), 200));
    let management = token(&entra(&workspace, "fake-secret", "https://management.core.windows.net/").json());
    assert_eq!(me(&workspace, &management).status, 401);
    assert_eq!(entra(&workspace, "wrong", DATABRICKS).status, 401);
    let azure = [("Authorization", "Bearer fake-token"), ("X-Databricks-Azure-SP-Management-Token", &*management)];
    ask_with(&workspace, "GET", ME, &azure, b"");

    let identity = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={DATABRICKS}");
    assert_eq!(ask_with(&workspace, "GET", &identity, &[], b"").status, 400);
    let given = ask_with(&workspace, "GET", &identity, &[("Metadata", "true")], b"").json();
    assert_eq!(me(&workspace, &token(&given)).status, 200);

    let counters = workspace.counters();
    assert_eq!((counters.tokens_issued, counters.of(Kind::Identity)), (4, 5));
    assert_eq!(counters.azure_headers["x-databricks-azure-sp-management-token"], management);
}

#[test]
fn given_tokens_expire_after_so_many_calls_or_when_they_are_told_to() {
    let workspace = started(FakeOptions { token_calls: Some(2), expires_in_text: true, ..FakeOptions::default() });
    let given = service_principal(&workspace);
    assert_eq!(given["expires_in"], "3600");
    let statuses: Vec<u16> = (0..3).map(|_| me(&workspace, &token(&given)).status).collect();
    assert_eq!(statuses, [200, 200, 401]);
    let next = token(&service_principal(&workspace));
    workspace.expire_tokens();
    assert_eq!((me(&workspace, &next).status, me(&workspace, workspace.token()).status), (401, 200));
    let expired = started(FakeOptions { expires_in: 0, ..FakeOptions::default() });
    assert_eq!(me(&expired, &token(&service_principal(&expired))).status, 401);
}

#[test]
fn the_log_tells_that_there_was_a_token_and_not_which() {
    let workspace = started(FakeOptions { keep_log: true, ..FakeOptions::default() });
    get(&workspace, "/api/2.0/workspace/list?path=/");
    ask_with(&workspace, "GET", ME, &[], b"");
    let log = workspace.log();
    assert_eq!(log[0].query.as_deref(), Some("path=/"));
    assert_eq!(log.iter().map(|it| it.has_authorization).collect::<Vec<_>>(), [true, false]);
    assert!(!format!("{log:?}").contains(workspace.token()));
}

#[test]
fn nothing_answers_after_the_drop() {
    let workspace = workspace();
    let address = workspace.url().strip_prefix("http://").unwrap().to_owned();
    assert_eq!(me(&workspace, workspace.token()).status, 200);
    drop(workspace);
    assert!(std::net::TcpStream::connect(address).is_err());
}
