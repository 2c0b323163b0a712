//! The command line: one file a command; arguments in, an exit code out.

mod acl;
mod bench;
mod bridge;
mod check_config;
mod connect;
mod consume;
mod end_to_end;
mod exit;
mod generate;
mod keys;
mod login_options;
mod messages;
mod output;
mod passwd;
mod prompt;
mod publish;
mod queue;
mod reply;
mod request;
mod serve;
mod smoke;
mod spawned;
mod status;
mod store;
mod sub;
mod tls;
mod token;
mod units;

pub use exit::{CliError, Exit};

use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// A durable message broker for edge boxes: what it acknowledges is on disk.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about, after_help = exit::TABLE, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Heading of what every command understands.
const COMMON: &str = "Options of all commands";

/// What every command understands.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = COMMON)]
struct Global {
    /// The broker: tcp://HOST:PORT, tls://HOST:PORT, ws://HOST:PORT/ws, wss://HOST:PORT/ws, HOST:PORT or unix:///PATH
    /// [default: the Unix socket in the default data folder if
    /// it is there, else tcp://127.0.0.1:8433]
    #[arg(long, env = "TIDEGATE_URL", global = true, value_name = "URL")]
    url: Option<String>,
    /// Print JSON for programs: one object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    login: login_options::LoginOptions,
    #[command(flatten)]
    tls: tls::TlsOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker
    Serve(serve::Serve),
    /// Publish a message, a file, or each line of one
    Pub(publish::Pub),
    /// Hear what is published on channels, live
    Sub(sub::Sub),
    /// Read a queue durably: each message until it is acknowledged
    Consume(consume::ConsumeArgs),
    /// Ask whoever answers on a channel
    Request(request::RequestArgs),
    /// Answer requests on channels
    Reply(reply::Reply),
    /// Look into queues, empty them, bring dead letters back
    #[command(subcommand)]
    Queue(queue::Queue),
    /// Show how bridges upstream are, pause them, let them go on
    #[command(subcommand, after_help = bridge::HELP)]
    Bridge(bridge::Bridge),
    /// Show how the broker is
    Status(status::StatusArgs),
    /// Say who may do what by the roles of a configuration
    #[command(subcommand)]
    Acl(acl::Acl),
    /// Make and explain certificates
    #[command(subcommand)]
    Tls(tls::Tls),
    /// Check a configuration file
    CheckConfig(check_config::CheckConfig),
    /// Make keys, show them, and let clients in by them
    #[command(subcommand, after_help = keys::HELP)]
    Keys(keys::Keys),
    /// Set or remove somebody's password
    Passwd(passwd::Passwd),
    /// Make, inspect and verify tokens (JWT)
    #[command(subcommand)]
    Token(token::Token),
    /// Check or compact the store of a stopped broker
    #[command(subcommand)]
    Store(store::Store),
    /// Test this very program on this box: start, publish, kill, restart, consume
    Smoke(smoke::Smoke),
    /// Load a broker and measure it
    Bench(bench::Bench),
    /// Print a completion script for a shell
    Completions(generate::Completions),
    /// Print the manual page, or write one a command into a folder
    Man(generate::Man),
}

/// Runs the program with these arguments, the first being its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failure; when nobody reads them there is nobody to tell either.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    match cli.command.run(&cli.global) {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::complain(&error.message);
            error.exit.into()
        }
    }
}

impl Command {
    fn run(self, global: &Global) -> Result<Exit, CliError> {
        match self {
            Self::Serve(command) => command.run(),
            Self::Pub(command) => command.run(global),
            Self::Sub(command) => command.run(global),
            Self::Consume(command) => command.run(global),
            Self::Request(command) => command.run(global),
            Self::Reply(command) => command.run(global),
            Self::Queue(command) => command.run(global),
            Self::Bridge(command) => command.run(global),
            Self::Status(command) => command.run(global),
            Self::Acl(command) => command.run(global),
            Self::Tls(command) => command.run(global),
            Self::CheckConfig(command) => command.run(global),
            Self::Keys(command) => command.run(global),
            Self::Passwd(command) => command.run(global),
            Self::Token(command) => command.run(global),
            Self::Store(command) => command.run(global),
            Self::Smoke(command) => command.run(global),
            Self::Bench(command) => command.run(global),
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
        }
    }
}

/// The whole command line, for completions and manual pages.
fn definition() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command without subcommands, with its full name.
    fn leaves(of: &clap::Command) -> Vec<clap::Command> {
        let all = of.get_subcommands().flat_map(leaves);
        if of.has_subcommands() { all.collect() } else { vec![of.clone()] }
    }

    #[test]
    fn help_wraps_to_the_width_there_is_and_keeps_common_options_apart() {
        let mut whole = definition().disable_help_subcommand(true).term_width(60);
        whole.build();
        for mut leaf in leaves(&whole) {
            let help = leaf.render_long_help().to_string();
            let (name, after) = (leaf.get_name().to_owned(), leaf.get_after_help().map(ToString::to_string));
            let prose = after.unwrap_or_default();
            // A paragraph is one line that clap breaks; an example is indented.
            let paragraphs: Vec<&str> =
                prose.lines().filter(|l| !l.starts_with([' ']) && !l.starts_with("Example")).collect();
            assert!(paragraphs.len() <= 1, "{name}: its help is broken by hand: {paragraphs:?}");
            // Neither an example nor the usage is broken.
            for line in help.lines().filter(|l| !l.starts_with("  tidegate") && !l.starts_with("Usage: ")) {
                assert!(line.trim().len() <= 60 || !line.trim().contains(' '), "{name}: {line:?}");
            }
            let common = help.find("Options of all commands:").expect("a heading of their own");
            assert!(help.find("--url").is_some_and(|at| at > common), "{name}");
            assert!(help.find("--help").is_some_and(|at| at < common), "{name}: its own options come first");
        }
    }

    /// One would hide the other, and reading it fails when their types differ.
    #[test]
    fn no_command_has_an_argument_of_a_name_that_all_commands_have() {
        let whole = definition();
        let common: Vec<_> = whole.get_arguments().filter(|a| a.is_global_set()).map(|a| a.get_id().clone()).collect();
        assert!(common.len() > 2, "{common:?}");
        for leaf in leaves(&whole) {
            for argument in leaf.get_arguments() {
                assert!(!common.contains(argument.get_id()), "{}: --{}", leaf.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn the_definition_holds_together_and_every_command_has_an_example() {
        definition().debug_assert();
        for command in definition().get_subcommands() {
            let mut leaves: Vec<_> = command.get_subcommands().collect();
            if leaves.is_empty() {
                leaves.push(command);
            }
            for leaf in leaves {
                let help = leaf.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "{} has no example in its help", leaf.get_name());
                assert!(help.contains("tidegate "), "{}: the example shows no command", leaf.get_name());
            }
        }
    }
}
