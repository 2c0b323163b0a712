//! `acl explain`: which rule of which role lets somebody do something, or does not.

use super::Global;
use super::exit::{CliError, Exit};
use super::output;
use super::serve::invalid;
use crate::auth::identities::{self, Known};
use crate::config::{Settings, load};
use crate::daemon::pick_folder;
use crate::model::{Channel, Filter};
use crate::routing::{Ask, Decision, Grants, Permissions};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

const HELP: &str = "Examples:
  tidegate acl explain --config tidegate.yaml --as sensor-7 --publish site/sensor-7/temp
  tidegate acl explain --config tidegate.yaml --role operator --consume 'main/site/#'";

/// The commands about permissions.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Acl {
    /// Say whether somebody may do something, and which rule decides it; the exit code is 0 where it may, 1 where not
    Explain(Explain),
}

/// Arguments of `acl explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Explain {
    /// The configuration that has the roles; without it the defaults and the environment
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Who does it: what {client} stands for [default: somebody without a name]
    #[arg(long = "as", value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    /// Their tenant: what {tenant} stands for
    #[arg(long, value_name = "TENANT", default_value = "", hide_default_value = true)]
    tenant: String,
    /// A role they have; may be repeated [default: those the identities file gives them, or strangers']
    #[arg(long, value_name = "ROLE")]
    role: Vec<String>,
    #[command(flatten)]
    what: What,
}

/// What is done: one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Publish to this channel
    #[arg(long, value_name = "CHANNEL")]
    publish: Option<String>,
    /// Hear this filter, or read a channel's history
    #[arg(long, value_name = "FILTER")]
    subscribe: Option<String>,
    /// Consume this queue, all of it or what a filter names; of dead letters the queue is $dead/QUEUE
    #[arg(long, value_name = "QUEUE[/FILTER]")]
    consume: Option<String>,
    /// Send a request to this channel
    #[arg(long, value_name = "CHANNEL")]
    request: Option<String>,
    /// Answer requests on this filter
    #[arg(long, value_name = "FILTER")]
    respond: Option<String>,
    /// Send a request to this channel of administration
    #[arg(long, value_name = "CHANNEL")]
    admin: Option<String>,
}

impl Acl {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        let Self::Explain(explain) = self;
        explain.run(global)
    }
}

impl Explain {
    fn run(self, global: &Global) -> Result<Exit, CliError> {
        let settings = load(self.config.as_deref(), std::env::vars_os()).map_err(|e| invalid(&e))?.settings;
        let ask = self.what.ask()?;
        let permissions = Arc::new(Permissions::new(&settings.roles));
        let roles = self.roles(&settings)?;
        if let Some(unknown) = roles.iter().find(|role| !permissions.has_role(role)) {
            return Err(CliError::usage(format!("there is no role {unknown:?} in the configuration")));
        }
        let names = roles.iter().map(String::as_str);
        let grants = Grants::new(permissions, &self.name, &self.tenant, names, false);
        let decision = grants.decide(&ask);
        let allowed = decision.is_allowed();
        let verdict = if allowed { "allowed" } else { "denied" };
        let (role, rule) = match decision {
            Decision::Allowed { role, rule } | Decision::Denied { role, rule } => (Some(role), Some(rule)),
            Decision::LocalAdmin | Decision::Default => (None, None),
        };
        if global.json {
            output::json(&json!({
                "allowed": allowed,
                "action": ask.name(),
                "role": role,
                "rule": rule,
                "roles": roles,
            }))?;
        } else {
            let of = if roles.is_empty() { "none".into() } else { roles.join(", ") };
            let by = match (role, rule) {
                (Some(role), Some(rule)) if allowed => format!("role {role}, {} {rule:?}", ask.name()),
                (Some(role), Some(rule)) => format!("role {role}, deny.{} {rule:?}", ask.name()),
                _ => format!("no rule for {} matches", ask.name()),
            };
            output::line(format!("{verdict}: {by} (roles: {of})"))?;
        }
        Ok(if allowed { Exit::Ok } else { Exit::Failure })
    }

    /// The roles given, or those of the identities file, or those of strangers.
    fn roles(&self, settings: &Settings) -> Result<Vec<String>, CliError> {
        if !self.role.is_empty() {
            return Ok(self.role.clone());
        }
        if self.name.is_empty() {
            return Ok(settings.auth.anonymous.clone().unwrap_or_default());
        }
        let Some(path) = &settings.auth.identities else {
            let what = "the configuration names no auth.identities to find them in: give their roles with --role";
            return Err(CliError::usage(what));
        };
        let folder = pick_folder(settings, |name| std::env::var_os(name)).unwrap_or_default();
        let path = folder.join(path);
        let text = std::fs::read(&path).map_err(|e| CliError::failure(format!("{}: {e}", path.display())))?;
        let known = identities::parse(&text, &path, Some(&Known::of(settings)))
            .map_err(|e| CliError::new(Exit::Config, e.to_string()))?;
        // Somebody may have a key and a password: what any of them gives.
        let mine = known.iter().filter(|i| *i.name == *self.name && *i.tenant == *self.tenant);
        let mut roles: Vec<String> = Vec::new();
        let mut found = false;
        for identity in mine {
            found = true;
            roles.extend(identity.roles.iter().map(|role| role.to_string()));
        }
        roles.sort_unstable();
        roles.dedup();
        if found {
            return Ok(roles);
        }
        let of = if self.tenant.is_empty() { String::new() } else { format!(" of tenant {:?}", self.tenant) };
        let what = format!("{} names no {:?}{of}: give their roles with --role", path.display(), self.name);
        Err(CliError::usage(what))
    }
}

impl What {
    fn ask(&self) -> Result<Ask<'_>, CliError> {
        let channel = |text: &String| match Channel::parse(text) {
            Ok(_) => Ok(()),
            Err(e) => Err(CliError::usage(format!("{text:?}: {e}"))),
        };
        let filter = |text: &str| match Filter::parse(text) {
            Ok(_) => Ok(()),
            Err(e) => Err(CliError::usage(format!("{text:?}: {e}"))),
        };
        if let Some(text) = &self.publish {
            return channel(text).map(|()| Ask::Publish(text));
        }
        if let Some(text) = &self.subscribe {
            return filter(text).map(|()| Ask::Subscribe(text));
        }
        if let Some(text) = &self.request {
            return channel(text).map(|()| Ask::Request(text));
        }
        if let Some(text) = &self.respond {
            return filter(text).map(|()| Ask::Respond(text));
        }
        if let Some(text) = &self.admin {
            return channel(text).map(|()| Ask::Admin(text));
        }
        // The group has one of them.
        let text = self.consume.as_deref().unwrap_or_default();
        let prefix = if text.starts_with("$dead/") { "$dead/".len() } else { 0 };
        let (queue, rest) = match text[prefix..].find('/') {
            Some(at) => (&text[..prefix + at], &text[prefix + at + 1..]),
            None => (text, "#"),
        };
        filter(rest).map(|()| Ask::Consume { queue, filter: rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consume(text: &str) -> What {
        let none = || None;
        What {
            publish: none(),
            subscribe: none(),
            consume: Some(text.into()),
            request: none(),
            respond: none(),
            admin: none(),
        }
    }

    #[test]
    fn a_queue_is_told_from_what_is_consumed_of_it() {
        for (text, queue, filter) in [
            ("main", "main", "#"),
            ("main/a/+", "main", "a/+"),
            ("$dead/main", "$dead/main", "#"),
            ("$dead/main/a/#", "$dead/main", "a/#"),
        ] {
            assert_eq!(consume(text).ask().expect(text), Ask::Consume { queue, filter });
        }
        assert!(consume("main/a#").ask().is_err());
    }
}
