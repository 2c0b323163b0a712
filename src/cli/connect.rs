//! From `--url` to a connected client on this thread.

use super::Global;
use super::exit::{CliError, Exit};
use super::output;
use crate::client::{Address, Client, ClientError, OnSettled, Options, PORT_DEFAULT, Response};
use crate::config::Settings;
use crate::daemon::pick_folder;
use crate::model::admin::AdminError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use smol::LocalExecutor;
use std::future::Future;
use std::rc::Rc;

/// Deadline of a request to the broker itself, in milliseconds.
const ADMIN_DEADLINE_MS: u32 = 10_000;

/// Runs a command on an executor of this one thread; tasks of clients run beside it.
pub(super) fn block_on<T>(command: impl AsyncFnOnce(Rc<LocalExecutor<'static>>) -> T) -> T {
    let executor = Rc::new(LocalExecutor::new());
    smol::block_on(executor.run(command(executor.clone())))
}

impl Global {
    /// The address given, or the default.
    pub(super) fn address(&self) -> Result<Address, CliError> {
        match &self.url {
            Some(url) => Ok(url.parse::<Address>().map_err(ClientError::Address)?),
            None => {
                let settings = Settings::default();
                let socket = settings.listen.unix.as_ref().zip(pick_folder(&settings, |name| std::env::var_os(name)));
                Ok(match socket.map(|(name, folder)| folder.join(name)) {
                    Some(path) if path.exists() => Address::Unix(path),
                    _ => Address::Tcp("127.0.0.1".into(), PORT_DEFAULT),
                })
            }
        }
    }
}

impl Global {
    /// Options of a command's client, with what the arguments say about TLS.
    pub(super) fn options(&self, command: &str) -> Options {
        Options { tls: self.tls.trust(), credentials: self.login.credentials(), ..options(command) }
    }
}

/// Options of a command's client: its name shows in the broker's status.
pub(super) fn options(command: &str) -> Options {
    Options { name: format!("tidegate-{command}-{}", std::process::id()), ..Options::default() }
}

/// Connects a client whose task runs on this thread's executor.
pub(super) async fn client(
    executor: &LocalExecutor<'static>,
    address: Address,
    options: Options,
    on_settled: Option<OnSettled>,
) -> Result<Client, CliError> {
    let (client, task) = Client::prepare(address, options, on_settled);
    executor.spawn(task).detach();
    client.opened().await?;
    Ok(client)
}

/// Says on standard error when the broker is gone and when it is back, once each time: for commands that outlive it.
pub(super) fn tell_of_breaks(executor: &LocalExecutor<'static>, client: &Client) {
    let client = client.clone();
    let watch = async move {
        // Both end with the client.
        while client.lost().await.is_ok() {
            output::note("the broker is gone: trying to reach it again");
            if client.opened().await.is_err() {
                return;
            }
            output::note("the broker is back");
        }
    };
    executor.spawn(watch).detach();
}

/// Asks the broker itself.
pub(super) async fn admin<Q: Serialize, A: DeserializeOwned>(
    client: &Client,
    channel: &str,
    query: Option<&Q>,
) -> Result<A, CliError> {
    let body = match query {
        Some(query) => serde_json::to_vec(query).map_err(|e| CliError::failure(format!("cannot write JSON: {e}")))?,
        None => Vec::new(),
    };
    let Response { status, body, .. } = client.request(channel, &body, ADMIN_DEADLINE_MS).await?;
    if status != 0 {
        let error = serde_json::from_slice::<AdminError>(&body).map(|e| e.error);
        let error = error.unwrap_or_else(|_| format!("status {status}"));
        return Err(CliError::new(Exit::Refused, format!("the broker refused: {error}")));
    }
    serde_json::from_slice(&body)
        .map_err(|e| CliError::failure(format!("the broker's answer cannot be read ({e}): is it of another release?")))
}

/// For queries without a body.
pub(super) const NO_QUERY: Option<&()> = None;

/// The future's result, or exit code 5 after a time.
pub(super) async fn within<T>(
    limit: Option<std::time::Duration>,
    what: &str,
    future: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    use smol::future::FutureExt as _;
    let late = async {
        match limit {
            Some(limit) => drop(smol::Timer::after(limit).await),
            None => std::future::pending().await,
        }
        Err(CliError::new(Exit::Timeout, format!("{what} did not finish in time")))
    };
    future.or(late).await
}
