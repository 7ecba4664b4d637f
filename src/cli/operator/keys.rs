//! `portcullis admin-key …`: keys of the admin API. Whoever can write to the database can make one; that is how the first
//! comes into the world.

#![allow(missing_docs, reason = "a flattened field takes no comment")]

use std::time::Duration;

use serde_json::json;

use super::{Desk, Done, Output, moment, moment_or, print, table};
use crate::ids::AdminKeyId;
use crate::operator::{NewKey, Permission};
use crate::secret::AdminSecret;
use crate::store::AdminKey;

/// Keys of the admin API.
#[derive(Debug, clap::Subcommand)]
pub enum AdminKeyCommand {
    /// Make a key; it goes to stdout, this once
    Create {
        /// What it is for
        #[arg(long)]
        name: String,
        /// What it may do; give it several times. `all` is every scope there is
        #[arg(long = "scope", value_name = "SCOPE", required = true, value_parser = scope)]
        scopes: Vec<Scopes>,
        /// Its life, such as 90d; without an end by default
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires_in: Option<Duration>,
        #[command(flatten)]
        output: Output,
    },
    /// List the keys there are, not the keys themselves
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Make a key with the name and scopes of another, which ends after a while
    Rotate {
        /// The key's id
        id: AdminKeyId,
        /// How long both are good; 0s ends the old one at once
        #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration)]
        overlap: Duration,
        /// The new one's life; without an end by default
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires_in: Option<Duration>,
        #[command(flatten)]
        output: Output,
    },
    /// End a key
    Revoke {
        /// The key's id
        id: AdminKeyId,
        #[command(flatten)]
        output: Output,
    },
}

/// One scope, or all.
#[derive(Clone, Debug)]
pub struct Scopes(Vec<Permission>);

fn scope(text: &str) -> Result<Scopes, String> {
    if text == "all" {
        return Ok(Scopes(Permission::ALL.to_vec()));
    }
    let known = || Permission::ALL.map(Permission::as_str).join(", ");
    Permission::parse(text)
        .map(|permission| Scopes(vec![permission]))
        .ok_or_else(|| format!("known are {}, all", known()))
}

impl Desk {
    pub(super) async fn admin_key(&self, command: &AdminKeyCommand) -> Done {
        match command {
            AdminKeyCommand::Create { name, scopes, expires_in, output } => {
                let permissions = scopes.iter().flat_map(|scopes| scopes.0.iter().copied()).collect();
                let new = NewKey { name: name.clone(), permissions, expires_in: *expires_in };
                show_once(*output, &self.operator.create_key(&self.by, new, None).await?)
            }
            AdminKeyCommand::List { output } => {
                let keys = self.operator.keys(&self.by).await?;
                print(*output, &json!({ "keys": keys }), || {
                    let head = ["id", "name", "state", "created", "last used", "scopes"];
                    table(&head, keys.iter().map(row).collect())
                })
            }
            AdminKeyCommand::Rotate { id, overlap, expires_in, output } => {
                show_once(*output, &self.operator.rotate_key(&self.by, *id, *overlap, *expires_in, None).await?)
            }
            AdminKeyCommand::Revoke { id, output } => {
                self.operator.revoke_key(&self.by, *id).await?;
                print(*output, &json!({ "id": id, "revoked": true }), || format!("{id} is revoked\n"))
            }
        }
    }
}

/// The key alone on stdout, so that it can be sent into a file; what it is, on stderr.
fn show_once(output: Output, (about, secret): &(AdminKey, AdminSecret)) -> Done {
    let mut answer = json!(about);
    answer["key"] = secret.expose().into();
    if !output.json {
        let end = moment_or(about.expires_at, "never");
        eprintln!("Key {} ({}), for {}; it expires: {end}.", about.id, about.name, about.scopes.join(" "));
        eprintln!("Keep it: it is not shown again. Send it as Authorization: Bearer <key> to /api/v1/admin.");
    }
    print(output, &answer, || format!("{}\n", secret.expose()))
}

fn row(key: &AdminKey) -> Vec<String> {
    let state = match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", moment(at)),
        (None, Some(at)) if !key.good => format!("expired {}", moment(at)),
        (None, Some(at)) => format!("good until {}", moment(at)),
        (None, None) => "good".into(),
    };
    vec![
        key.id.to_string(),
        key.name.clone(),
        state,
        moment(key.created_at),
        moment_or(key.last_used_at, "-"),
        key.scopes.join(" "),
    ]
}
