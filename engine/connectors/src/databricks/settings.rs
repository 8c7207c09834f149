//! Which workspace, and who asks: found as the command line of Databricks finds it.
//!
//! A profile that is asked for is taken alone. Else the environment (`DATABRICKS_*`, `ARM_*`) says, if it is for the host
//! that is meant, and else a profile of `~/.databrickscfg`. What proves who asks for one host is never sent to another.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

use crate::ini::{IniError, read_ini};
use crate::rest::Secret;

/// A place in a workspace: `databricks://[profile@]host/path`. An empty host is the configured one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceUri {
    /// The profile that it is reached by.
    pub profile: Option<String>,
    /// Host, and a port if there is one; `None`: the configured one.
    pub host: Option<String>,
    /// Path in the workspace, from `/` on, without a `/` at its end.
    pub path: String,
}

impl WorkspaceUri {
    /// Tells whether a text means a workspace.
    pub fn looks_like_one(text: &str) -> bool {
        text.starts_with("databricks://")
    }

    /// Reads one. The path is taken as it is: nothing in it is encoded.
    ///
    /// # Errors
    /// It is none, or has a password in it.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let no_uri = |why| SettingsError::Uri { why };
        let rest = text.strip_prefix("databricks://").ok_or_else(|| no_uri("it does not begin with databricks://"))?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (profile, host) = match authority.rsplit_once('@') {
            Some((profile, _)) if profile.contains(':') => return Err(no_uri("credentials do not belong there")),
            Some((profile, host)) => (Some(profile), host),
            None => (None, authority),
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let host = host.to_ascii_lowercase();
        if !host.bytes().all(|c| c.is_ascii_alphanumeric() || b".-:[]".contains(&c)) {
            return Err(no_uri("its host is none"));
        }
        Ok(Self { profile: profile.and_then(some), host: some(&host), path: clean_path(path)? })
    }
}

/// Puts a path into the form in which a workspace lists it.
pub(super) fn clean_path(path: &str) -> Result<String, SettingsError> {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") {
        return Err(SettingsError::Uri { why: "`..` has no meaning in a workspace" });
    }
    // an optional beginning of every path
    let names = names.strip_prefix(&["Workspace"]).unwrap_or(&names);
    Ok(format!("/{}", names.join("/")))
}

/// Why it is not known where a workspace is, or who asks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// It is no URI of a workspace.
    #[error("That is no place in a workspace, as databricks://HOST/PATH is: {why}")]
    Uri {
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nothing says which workspace is meant.
    #[error("No workspace is named: databricks://HOST/PATH names one, or DATABRICKS_HOST, or a profile")]
    NoHost,
    /// A host cannot be understood.
    #[error("`{host}` is no address of a workspace")]
    Host {
        /// The host as it was given.
        host: String,
    },
    /// A profile is not there.
    #[error("There is no profile `{name}` in {}", file.display())]
    NoProfile {
        /// Its name.
        name: String,
        /// The file of profiles.
        file: PathBuf,
    },
    /// A profile is of another workspace.
    #[error("Profile `{name}` is of {its}, and not of {wanted}")]
    OtherHost {
        /// The profile's name.
        name: String,
        /// Its host.
        its: String,
        /// The host that is wanted.
        wanted: String,
    },
    /// Several profiles might be meant.
    #[error("Several profiles are of {host} ({}): say which one, as databricks://PROFILE@HOST/PATH does", names.join(", "))]
    ManyProfiles {
        /// The host.
        host: String,
        /// The profiles.
        names: Vec<String>,
    },
    /// A file cannot be read.
    #[error("Cannot read {}: {why}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Nothing proves who asks.
    #[error("Nothing says who asks {host}: no token, no service principal, no profile, no command")]
    NoCredentials {
        /// The host.
        host: String,
    },
    /// Something that is needed is missing.
    #[error("For {way}, {lacks} is missing")]
    Incomplete {
        /// The way to prove who asks.
        way: &'static str,
        /// What is not there.
        lacks: &'static str,
    },
    /// A way that is not known.
    #[error(
        "`{name}` is no way to sign in that lakebed knows: pat, oauth-m2m, azure-client-secret, azure-msi, azure-cli, databricks-cli, command"
    )]
    AuthType {
        /// The way as it was named.
        name: String,
    },
}

/// How it is proved who asks.
#[derive(Clone)]
pub(super) enum Credentials {
    /// A personal access token, or one from elsewhere.
    Token(Secret),
    /// A service principal of Databricks.
    ServicePrincipal { client_id: String, secret: Secret, account_id: Option<String> },
    /// A service principal of Entra.
    EntraServicePrincipal { tenant_id: String, client_id: String, secret: Secret },
    /// The identity of the Azure machine that this is.
    ManagedIdentity { client_id: Option<String> },
    /// A command line that prints a token, or a JSON document with one.
    Command(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::ServicePrincipal { .. } => "ServicePrincipal",
            Self::EntraServicePrincipal { .. } => "EntraServicePrincipal",
            Self::ManagedIdentity { .. } => "ManagedIdentity",
            Self::Command(_) => "Command",
        })
    }
}

/// Where a workspace is, and who asks.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) address: Url,
    pub(super) credentials: Credentials,
    /// For service principals of Entra that are no users of the workspace.
    pub(super) azure_resource_id: Option<String>,
    /// On hosts that serve several workspaces.
    pub(super) workspace_id: Option<String>,
    /// Where Entra hands tokens out.
    pub(super) entra: Url,
    /// Where a machine of Azure asks for its own identity.
    pub(super) identity_service: Url,
}

/// The application id of Azure Databricks, for which tokens are asked.
pub(super) const AZURE_DATABRICKS: &str = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d";

/// Settings by the names that they have in `~/.databrickscfg`.
type Values = BTreeMap<String, String>;

/// Variables, and the settings that they are.
const VARIABLES: [(&str, &str); 16] = [
    ("DATABRICKS_HOST", "host"),
    ("DATABRICKS_TOKEN", "token"),
    ("DATABRICKS_CLIENT_ID", "client_id"),
    ("DATABRICKS_CLIENT_SECRET", "client_secret"),
    ("DATABRICKS_ACCOUNT_ID", "account_id"),
    ("DATABRICKS_WORKSPACE_ID", "workspace_id"),
    ("DATABRICKS_AUTH_TYPE", "auth_type"),
    ("DATABRICKS_AZURE_RESOURCE_ID", "azure_workspace_resource_id"),
    ("LAKEBED_DATABRICKS_TOKEN_COMMAND", "token_command"),
    ("ARM_CLIENT_ID", "azure_client_id"),
    ("ARM_CLIENT_SECRET", "azure_client_secret"),
    ("ARM_TENANT_ID", "azure_tenant_id"),
    ("ARM_USE_MSI", "azure_use_msi"),
    ("ARM_ENVIRONMENT", "azure_environment"),
    ("ARM_MSI_ENDPOINT", "azure_msi_endpoint"),
    ("AZURE_AUTHORITY_HOST", "azure_authority_host"),
];

/// Settings that say where something is, and prove nothing: they hold beside a profile too.
const PLACES: [&str; 3] = ["azure_environment", "azure_msi_endpoint", "azure_authority_host"];

impl Settings {
    /// Finds out about a place in a workspace; `env` looks a variable up.
    pub(super) fn find(uri: &WorkspaceUri, env: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let set = |name: &str| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let of_environment: Values =
            VARIABLES.iter().filter_map(|(name, key)| Some(((*key).to_owned(), set(name)?))).collect();
        let home = set("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let file = set("DATABRICKS_CONFIG_FILE").map(PathBuf::from);
        let file = file.or_else(|| home.map(|home| home.join(".databrickscfg"))).unwrap_or_default();
        let asked = uri.profile.clone().or_else(|| set("DATABRICKS_CONFIG_PROFILE"));
        let wanted = uri.host.as_deref();
        let values = match asked {
            Some(name) => {
                let profiles = read_profiles(&file)?;
                let no_profile = || SettingsError::NoProfile { name: name.clone(), file: file.clone() };
                let mut values = profiles.get(&name).cloned().ok_or_else(no_profile)?;
                if let (Some(wanted), Some(its)) = (wanted, values.get("host"))
                    && host_of(its)? != wanted
                {
                    return Err(SettingsError::OtherHost { name, its: host_of(its)?, wanted: wanted.into() });
                }
                values.insert("profile".into(), name);
                for place in PLACES {
                    if let (None, Some(value)) = (values.get(place), of_environment.get(place)) {
                        values.insert(place.into(), value.clone());
                    }
                }
                values
            }
            None => without_profile(wanted, of_environment, &file)?,
        };
        Self::of(wanted, &values)
    }

    fn of(wanted: Option<&str>, values: &Values) -> Result<Self, SettingsError> {
        let get = |key: &str| values.get(key).cloned();
        let address = match (get("host"), wanted) {
            (Some(host), _) => address_of(&host)?,
            (None, Some(wanted)) => address_of(wanted)?,
            (None, None) => return Err(SettingsError::NoHost),
        };
        let entra = match (get("azure_authority_host"), get("azure_environment").as_deref()) {
            (Some(host), _) => address_of(&host)?,
            (None, Some("usgovernment" | "USGOVERNMENT")) => address_of("login.microsoftonline.us")?,
            (None, Some("china" | "CHINA")) => address_of("login.chinacloudapi.cn")?,
            (None, _) => address_of("login.microsoftonline.com")?,
        };
        let identity_service = match get("azure_msi_endpoint") {
            Some(address) => Url::parse(&address).map_err(|_| SettingsError::Host { host: address })?,
            None => {
                let address = "http://169.254.169.254/metadata/identity/oauth2/token";
                Url::parse(address).map_err(|_| SettingsError::Host { host: address.into() })?
            }
        };
        let credentials = credentials(&address, values)?;
        let azure_resource_id = get("azure_workspace_resource_id");
        Ok(Self { address, credentials, azure_resource_id, workspace_id: get("workspace_id"), entra, identity_service })
    }
}

/// Settles what counts where no profile is asked for.
fn without_profile(wanted: Option<&str>, of_environment: Values, file: &Path) -> Result<Values, SettingsError> {
    let its_host = of_environment.get("host").map(|host| host_of(host)).transpose()?;
    // whoever names no host is at the one of the environment
    let wanted = wanted.or(its_host.as_deref());
    if its_host.is_some() && its_host.as_deref() == wanted && names_credentials(&of_environment) {
        return Ok(of_environment);
    }
    // what was set for Databricks is meant; what a machine of Azure has besides may not be
    let is_set =
        ["token", "client_id", "token_command", "auth_type"].iter().any(|key| of_environment.contains_key(*key));
    if its_host.is_none() && wanted.is_some() && is_set {
        return Ok(of_environment);
    }
    let profiles = read_profiles(file)?;
    let found = match wanted {
        None => profiles.get_key_value("DEFAULT"),
        Some(wanted) => {
            let is_its =
                |values: &Values| values.get("host").and_then(|host| host_of(host).ok()).as_deref() == Some(wanted);
            let fitting: Vec<_> = profiles.iter().filter(|(_, values)| is_its(values)).collect();
            if fitting.len() > 1 && !fitting.iter().any(|(name, _)| *name == "DEFAULT") {
                let names = fitting.into_iter().map(|(name, _)| name.clone()).collect();
                return Err(SettingsError::ManyProfiles { host: wanted.into(), names });
            }
            fitting.iter().find(|(name, _)| *name == "DEFAULT").or(fitting.first()).copied()
        }
    };
    match (found, wanted) {
        (Some((name, values)), _) => {
            let mut values = values.clone();
            values.insert("profile".into(), name.clone());
            Ok(values)
        }
        (None, None) => Err(SettingsError::NoHost),
        // what names no host is for the one that is named
        (None, Some(_)) if its_host.is_none() && names_credentials(&of_environment) => Ok(of_environment),
        (None, Some(host)) => Err(SettingsError::NoCredentials { host: host.into() }),
    }
}

fn names_credentials(values: &Values) -> bool {
    ["token", "client_id", "azure_client_id", "azure_use_msi", "token_command", "auth_type"]
        .iter()
        .any(|key| values.contains_key(*key))
}

/// Finds out how it is proved who asks, in the order in which the tools of Databricks try.
fn credentials(address: &Url, values: &Values) -> Result<Credentials, SettingsError> {
    let get = |key: &str| values.get(key).cloned();
    let need =
        |key: &str, way: &'static str, lacks: &'static str| get(key).ok_or(SettingsError::Incomplete { way, lacks });
    let host = address.as_str().trim_end_matches('/');
    let is_true = |key: &str| get(key).is_some_and(|value| matches!(value.as_str(), "1" | "true" | "TRUE" | "True"));
    let way = match get("auth_type") {
        Some(way) => way,
        None if values.contains_key("token_command") => "command".into(),
        None if values.contains_key("token") => "pat".into(),
        None if values.contains_key("client_id") => "oauth-m2m".into(),
        None if is_true("azure_use_msi") => "azure-msi".into(),
        None if values.contains_key("azure_client_id") => "azure-client-secret".into(),
        None => return Err(SettingsError::NoCredentials { host: host.into() }),
    };
    Ok(match way.as_str() {
        "command" => Credentials::Command(need("token_command", "a command", "LAKEBED_DATABRICKS_TOKEN_COMMAND")?),
        "pat" => Credentials::Token(Secret::new(need("token", "a personal access token", "the token")?)),
        "oauth-m2m" => {
            const WAY: &str = "a service principal";
            let secret = Secret::new(need("client_secret", WAY, "client_secret")?);
            let client_id = need("client_id", WAY, "client_id")?;
            Credentials::ServicePrincipal { client_id, secret, account_id: get("account_id") }
        }
        "azure-client-secret" => {
            const WAY: &str = "a service principal of Entra";
            let secret = Secret::new(need("azure_client_secret", WAY, "azure_client_secret (ARM_CLIENT_SECRET)")?);
            let tenant_id = need("azure_tenant_id", WAY, "azure_tenant_id (ARM_TENANT_ID)")?;
            let client_id = need("azure_client_id", WAY, "azure_client_id (ARM_CLIENT_ID)")?;
            Credentials::EntraServicePrincipal { tenant_id, client_id, secret }
        }
        "azure-msi" => Credentials::ManagedIdentity { client_id: get("azure_client_id") },
        "azure-cli" => {
            Credentials::Command(format!("az account get-access-token --output json --resource {AZURE_DATABRICKS}"))
        }
        "databricks-cli" => Credentials::Command(match get("profile") {
            Some(profile) => format!("databricks auth token --profile {}", crate::process::quoted(&profile)),
            None => format!("databricks auth token --host {}", crate::process::quoted(host)),
        }),
        _ => return Err(SettingsError::AuthType { name: way }),
    })
}

/// Reads the file of profiles. One that is not there has none.
fn read_profiles(file: &Path) -> Result<BTreeMap<String, Values>, SettingsError> {
    let failed = |why: String| SettingsError::File { file: file.into(), why };
    let ini = read_ini(file).map_err(|error| match error {
        IniError::Unreadable(error) => failed(error.to_string()),
        IniError::Malformed(why) => failed(why),
    })?;
    let Some(ini) = ini else { return Ok(BTreeMap::new()) };
    let values = |section: &std::collections::HashMap<String, Option<String>>| {
        let set = section.iter().filter_map(|(key, value)| {
            let value = value.as_ref()?.trim();
            (!value.is_empty()).then(|| (key.trim().to_ascii_lowercase(), value.to_owned()))
        });
        set.collect::<Values>()
    };
    Ok(ini.get_map_ref().iter().map(|(name, section)| (name.clone(), values(section))).collect())
}

/// Returns the address of a host that may be given with or without a scheme.
fn address_of(host: &str) -> Result<Url, SettingsError> {
    let no_host = || SettingsError::Host { host: host.into() };
    let text = if host.contains("://") { host.to_owned() } else { format!("https://{host}") };
    let mut url = Url::parse(&text).map_err(|_| no_host())?;
    let is_web = matches!(url.scheme(), "https" | "http") && url.has_host();
    if !is_web || !url.username().is_empty() || url.password().is_some() {
        return Err(SettingsError::Host { host: url.host_str().unwrap_or_default().into() });
    }
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// Returns host and port as a URI of a workspace has them.
pub(super) fn host_of(host: &str) -> Result<String, SettingsError> {
    Ok(host_and_port(&address_of(host)?))
}

/// Returns host and port of an address; the usual port is left out.
pub(super) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> WorkspaceUri {
        WorkspaceUri::parse(text).unwrap()
    }

    /// Settings with these variables, and this file of profiles.
    fn find(text: &str, variables: &[(&str, &str)], profiles: &str) -> Result<Settings, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cfg");
        std::fs::write(&file, profiles).unwrap();
        let file = file.to_str().unwrap().to_owned();
        Settings::find(&uri(text), |name| match name {
            "DATABRICKS_CONFIG_FILE" => Some(file.clone()),
            _ => variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned()),
        })
    }

    fn token(settings: Result<Settings, SettingsError>) -> String {
        match settings.unwrap().credentials {
            Credentials::Token(token) => token.expose().to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_uri_names_profile_host_and_path() {
        let parsed = uri("databricks://prod@adb-1.2.azuredatabricks.net/Clients//2024/");
        assert_eq!(parsed.profile.as_deref(), Some("prod"));
        assert_eq!(parsed.host.as_deref(), Some("adb-1.2.azuredatabricks.net"));
        assert_eq!(parsed.path, "/Clients/2024");
        assert_eq!(uri("databricks:///Clients").host, None);
        assert_eq!(uri("databricks://host").path, "/");
        assert_eq!(uri("databricks://host:8080/Workspace/Users/a@b.c/x y#%").path, "/Users/a@b.c/x y#%");
        for wrong in ["databricks:/x", "databricks://a:secret@host/x", "databricks://h/../x", "databricks://a b/x"] {
            let error = WorkspaceUri::parse(wrong).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_environment_serves_its_own_host_and_no_other() {
        let variables = [("DATABRICKS_HOST", "https://one.cloud.databricks.com/"), ("DATABRICKS_TOKEN", "dapi-one")];
        assert_eq!(token(find("databricks:///x", &variables, "")), "dapi-one");
        assert_eq!(token(find("databricks://one.cloud.databricks.com/x", &variables, "")), "dapi-one");
        let other = find("databricks://two.cloud.databricks.com/x", &variables, "");
        assert!(matches!(other, Err(SettingsError::NoCredentials { .. })), "{other:?}");
        let profile = "[two]\nhost = two.cloud.databricks.com\ntoken = dapi-two\n";
        assert_eq!(token(find("databricks://two.cloud.databricks.com/x", &variables, profile)), "dapi-two");
        // a host alone is looked for among the profiles
        let host = [("DATABRICKS_HOST", "two.cloud.databricks.com")];
        assert_eq!(token(find("databricks:///x", &host, profile)), "dapi-two");
    }

    #[test]
    fn a_profile_that_is_asked_for_counts_alone() {
        let profiles = "[DEFAULT]\nhost = https://a\ntoken = dapi-a\n[b]\nhost = https://b\ntoken = dapi-b\n";
        let variables = [("DATABRICKS_TOKEN", "dapi-env")];
        let settings = find("databricks://b@/x", &variables, profiles);
        assert_eq!(settings.as_ref().unwrap().address.as_str(), "https://b/");
        assert_eq!(token(settings), "dapi-b");
        assert_eq!(token(find("databricks:///x", &[("DATABRICKS_CONFIG_PROFILE", "b")], profiles)), "dapi-b");
        assert_eq!(token(find("databricks:///x", &[], profiles)), "dapi-a");
        assert!(matches!(find("databricks://c@/x", &[], profiles), Err(SettingsError::NoProfile { .. })));
        assert!(matches!(find("databricks://b@a/x", &[], profiles), Err(SettingsError::OtherHost { .. })));
    }

    #[test]
    fn of_several_profiles_of_a_host_one_must_be_named() {
        let profiles = "[a]\nhost = https://h\ntoken = dapi-a\n[b]\nhost = https://h\ntoken = dapi-b\n";
        assert!(matches!(find("databricks://h/x", &[], profiles), Err(SettingsError::ManyProfiles { .. })));
        assert_eq!(token(find("databricks://b@h/x", &[], profiles)), "dapi-b");
    }

    #[test]
    fn each_way_to_sign_in_is_found() {
        let way = |variables: &[(&str, &str)]| {
            let all = [&[("DATABRICKS_HOST", "https://h")], variables].concat();
            format!("{:?}", find("databricks:///x", &all, "").map(|settings| settings.credentials))
        };
        assert_eq!(way(&[("DATABRICKS_CLIENT_ID", "c"), ("DATABRICKS_CLIENT_SECRET", "s")]), "Ok(ServicePrincipal)");
        let entra = [("ARM_CLIENT_ID", "c"), ("ARM_CLIENT_SECRET", "s"), ("ARM_TENANT_ID", "t")];
        assert_eq!(way(&entra), "Ok(EntraServicePrincipal)");
        assert_eq!(way(&[("ARM_USE_MSI", "true")]), "Ok(ManagedIdentity)");
        assert_eq!(way(&[("DATABRICKS_AUTH_TYPE", "azure-cli")]), "Ok(Command)");
        assert_eq!(way(&[("DATABRICKS_AUTH_TYPE", "databricks-cli")]), "Ok(Command)");
        assert_eq!(way(&[("LAKEBED_DATABRICKS_TOKEN_COMMAND", "cat token")]), "Ok(Command)");
        assert!(way(&entra[..2]).contains("azure_tenant_id"));
        assert!(way(&[("DATABRICKS_AUTH_TYPE", "magic")]).contains("AuthType"));
        assert!(way(&[]).contains("NoCredentials"));
    }
}
