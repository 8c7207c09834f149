//! Workspaces of Databricks: how they are named and reached.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use lakebed_connectors::databricks::{ConnectError, ConnectOptions, SettingsError, Workspace, WorkspaceUri};
use lakebed_engine::system::SystemClock;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::CliError;
use crate::ui;

/// How workspaces are reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Workspaces")]
pub(crate) struct WorkspaceArgs {
    /// Calls of a kind a second at most, such as export=30, or export=none; docs/databricks.md lists the kinds
    #[arg(long, value_name = "KIND=N", value_parser = parse_rate)]
    rate: Vec<(String, Option<f64>)>,
    /// Also trust the authorities whose certificates are in this file (PEM)
    #[arg(long, env = "LAKEBED_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// Reads how often a kind of call may be sent.
fn parse_rate(text: &str) -> Result<(String, Option<f64>), String> {
    let (kind, rate) = text.split_once('=').ok_or("expected a kind of call and a number, such as export=30")?;
    let rate = match rate {
        "none" => None,
        number => match number.parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate > 0.0 => Some(rate),
            _ => return Err(format!("`{number}` is no number of calls a second")),
        },
    };
    Ok((kind.to_owned(), rate))
}

impl WorkspaceArgs {
    /// Connects to the workspace of a URI.
    pub(crate) fn connect(&self, ctx: &Context, uri: &WorkspaceUri) -> Result<Workspace, CliError> {
        let options = ConnectOptions {
            allow_http: ctx.globals.network.allows_http(),
            retry_for: None,
            first_pause: None,
            rates: self.rate.clone(),
            authorities: self.ca_file.clone(),
            tell: Some(ctx.ui.teller()),
            clock: Arc::new(SystemClock::default()),
        };
        Ok(Workspace::connect(uri, |name| std::env::var(name).ok(), &options)?)
    }
}

/// Tells what was asked of a workspace.
pub(crate) fn traffic_line(workspace: &Workspace) -> String {
    let traffic = workspace.traffic();
    let kinds: Vec<String> =
        traffic.calls.iter().map(|(kind, calls)| format!("{} {kind}", ui::count(*calls))).collect();
    let repeated = match traffic.repeated {
        0 => String::new(),
        repeated => format!(", {} of them repeated", ui::count(repeated)),
    };
    let (sent, received) = (ui::bytes(traffic.sent_bytes), ui::bytes(traffic.received_bytes));
    let total = ui::counted(traffic.total(), "call", "calls");
    format!("workspace:   {total} ({}){repeated}; {received} received, {sent} sent", kinds.join(", "))
}

/// The same for programs.
pub(crate) fn traffic_json(workspace: &Workspace) -> Value {
    let traffic = workspace.traffic();
    json!({
        "host": workspace.host(),
        "calls": traffic.calls,
        "repeated": traffic.repeated,
        "bytes_sent": traffic.sent_bytes,
        "bytes_received": traffic.received_bytes,
    })
}

impl From<SettingsError> for CliError {
    fn from(error: SettingsError) -> Self {
        match error {
            SettingsError::Uri { .. } => Self::usage(error.to_string()),
            SettingsError::NoHost | SettingsError::NoCredentials { .. } => Self::failed(error.to_string()).hint(
                "set DATABRICKS_HOST and DATABRICKS_TOKEN, or name a profile of ~/.databrickscfg: \
                 databricks://PROFILE@/PATH; docs/databricks.md has all ways to sign in",
            ),
            _ => Self::failed(error.to_string()).hint("docs/databricks.md has all ways to sign in"),
        }
    }
}

impl From<ConnectError> for CliError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Settings(error) => error.into(),
            ConnectError::PlainHttp { .. } => Self::failed(error.to_string())
                .hint("if that is meant, say --allow-http or set LAKEBED_ALLOW_HTTP=true"),
            ConnectError::Rate { .. } => Self::usage(error.to_string()),
            error => {
                let told = error.to_string();
                let causes = crate::error::causes(&error);
                let failed = Self::failed(told);
                if causes.is_empty() { failed } else { failed.caused_by(causes.join(": ")) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_kind_and_a_number_or_none() {
        assert_eq!(parse_rate("export=0.5"), Ok(("export".into(), Some(0.5))));
        assert_eq!(parse_rate("list=none"), Ok(("list".into(), None)));
        for wrong in ["export", "export=", "export=0", "export=-1", "export=inf", "export=many"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
