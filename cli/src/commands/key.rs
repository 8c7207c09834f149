//! `key`: who may open the repository.

use clap::{Args, Subcommand};
use lakebed_engine::Repository;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::record::key_slot::{KdfCost, Secret, Unlock};
use serde_json::{Value, json};

use crate::args::Kdf;
use crate::context::{Access, Context};
use crate::error::{CliError, Exit};
use crate::secret::{NewSecretArgs, describe};
use crate::ui::{self, Table};

const EXAMPLES: &str = "\
Each key slot holds the repository's key, locked by one password or key file; any of them opens the repository. To lock \
somebody out, remove the slot. Who had it may have kept the key itself: to be safe from that, make a new repository.

Examples:
  lakebed key list --repo /mnt/backup/lake
  lakebed key add --repo /mnt/backup/lake --new-key-file lake.key --label emergency
  lakebed key passwd --repo /mnt/backup/lake";

/// Manage passwords and key files
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

impl KeyArgs {
    /// Returns the command's name, as JSON has it.
    pub(crate) fn name(&self) -> &'static str {
        match self.command {
            KeyCommand::Add { .. } => "key add",
            KeyCommand::List => "key list",
            KeyCommand::Remove { .. } => "key remove",
            KeyCommand::Passwd { .. } => "key passwd",
        }
    }
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Add a password or key file that opens the repository
    Add {
        #[command(flatten)]
        new: NewSlotArgs,
        /// Label to know it by [default: none]
        #[arg(long, default_value = "", hide_default_value = true)]
        label: String,
    },
    /// List the key slots, the oldest first; `*` marks the one that is used now
    List,
    /// Remove a key slot; the last one stays
    Remove {
        /// The key slot: the beginning of its id
        id: String,
    },
    /// Replace the password or key file that opens the repository now by another one
    Passwd {
        #[command(flatten)]
        new: NewSlotArgs,
    },
}

/// A new key slot.
#[derive(Debug, Args)]
struct NewSlotArgs {
    #[command(flatten)]
    secret: NewSecretArgs,
    /// How costly it is to guess the password
    #[arg(long, value_enum, default_value_t, value_name = "COST", conflicts_with = "new_key_file")]
    kdf: Kdf,
}

impl NewSlotArgs {
    fn read(&self) -> Result<(Unlock, Secret), CliError> {
        let secret = self.secret.read()?;
        let unlock = match &secret {
            Secret::KeyFile(_) => Unlock::KeyFile,
            _ => KdfCost::from(self.kdf).unlock(),
        };
        Ok((unlock, secret))
    }
}

pub(crate) fn run(ctx: &Context, args: &KeyArgs) -> Result<Exit, CliError> {
    let access = if matches!(args.command, KeyCommand::List) { Access::Read } else { Access::Write };
    let repository = ctx.open(access)?;
    if access == Access::Write && repository.info().encryption == Encryption::None {
        return Err(CliError::failed("The repository is not encrypted, so there are no keys to change"));
    }
    match &args.command {
        KeyCommand::List => list(ctx, &repository)?,
        KeyCommand::Add { new, label } => {
            let (unlock, secret) = new.read()?;
            let id = repository.add_key(unlock, &secret, label)?;
            let what = describe(&secret);
            ctx.ui.report(
                || json!({ "added": id }),
                |out| writeln!(out, "key slot {} added: the {what} opens the repository from now on", id.short()),
            )?;
        }
        KeyCommand::Remove { id } => {
            let id = repository.remove_key(id)?;
            ctx.ui.report(|| json!({ "removed": id }), |out| writeln!(out, "key slot {} removed", id.short()))?;
        }
        KeyCommand::Passwd { new } => {
            let (unlock, secret) = new.read()?;
            let id = repository.change_secret(unlock, &secret)?;
            let what = describe(&secret);
            ctx.ui.report(
                || json!({ "added": id }),
                |out| {
                    writeln!(out, "key slot {} takes the old one's place: use the new {what} from now on", id.short())
                },
            )?;
        }
    }
    Ok(Exit::Done)
}

fn list(ctx: &Context, repository: &Repository) -> Result<(), CliError> {
    let keys = repository.list_keys()?;
    ctx.ui.answer(
        || {
            let keys = keys.iter().map(|key| {
                json!({
                    "id": key.id,
                    "created": key.created,
                    "unlock": unlock_json(&key.unlock),
                    "label": key.label,
                    "current": key.current,
                })
            });
            json!({ "keys": keys.collect::<Vec<_>>() })
        },
        |out| {
            let mut table = Table::new(&["", "ID", "Made", "Opened by", "Label"]);
            for key in &keys {
                table.row(vec![
                    if key.current { "*".into() } else { String::new() },
                    key.id.short(),
                    ui::local_time(key.created),
                    unlock_text(&key.unlock),
                    ui::plain(&key.label),
                ]);
            }
            table.write(out)
        },
    )
}

fn unlock_text(unlock: &Unlock) -> String {
    match unlock {
        Unlock::Passphrase { memory_kib, passes, .. } => {
            format!("password (Argon2id, {}, {passes} passes)", ui::bytes(u64::from(*memory_kib) * 1024))
        }
        Unlock::KeyFile => "key file".into(),
        Unlock::Clear => "anybody: not encrypted".into(),
    }
}

fn unlock_json(unlock: &Unlock) -> Value {
    // an enum of numbers and names: JSON always holds it
    serde_json::to_value(unlock).unwrap_or_default()
}
