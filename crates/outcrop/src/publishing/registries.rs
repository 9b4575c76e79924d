//! A registry client for commands: credentials and proxies of the user who calls.

use crate::cli::RegistryArgs;
use registry::credentials::Programs;
use registry::{Client, Config, Credentials, Metrics, Proxies};
use std::ffi::OsString;
use std::path::PathBuf;

/// What credential helpers may see of the environment.
const PASSED_ON: [&str; 8] = [
    "PATH",
    "HOME",
    "USER",
    "DOCKER_CONFIG",
    "AWS_PROFILE",
    "AWS_REGION",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "XDG_RUNTIME_DIR",
];

/// The client.
pub fn client(options: &RegistryArgs, runtime: &tokio::runtime::Runtime) -> Client {
    let config = Config {
        hosts_directories: vec![options.hosts_directory.clone()],
        credentials: Credentials {
            docker: docker_config(options),
            programs: programs(),
            ..Credentials::default()
        },
        plain_http: options.plain_http.clone(),
        proxies: proxies(),
        ..Config::default()
    };
    Client::new(config, Metrics::default(), runtime.handle().clone())
}

/// How helper programs are run: found and informed as this process was.
pub(crate) fn programs() -> Programs {
    Programs {
        search: std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).collect())
            .unwrap_or_default(),
        environment: environment(),
        ..Programs::default()
    }
}

fn docker_config(options: &RegistryArgs) -> Vec<PathBuf> {
    if let Some(file) = &options.docker_config {
        return vec![file.clone()];
    }
    let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    directory
        .or_else(home)
        .map(|directory| directory.join("config.json"))
        .into_iter()
        .collect()
}

fn environment() -> Vec<(OsString, OsString)> {
    PASSED_ON
        .iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
        .collect()
}

/// Both spellings are in use; the lower one wins, as in curl.
pub(crate) fn proxies() -> Option<Proxies> {
    let value = |name: &str| {
        let value = std::env::var(name.to_ascii_lowercase()).or_else(|_| std::env::var(name));
        value.ok().filter(|value| !value.is_empty())
    };
    let proxies = Proxies {
        https: value("HTTPS_PROXY"),
        http: value("HTTP_PROXY"),
        except: value("NO_PROXY").unwrap_or_default(),
    };
    (proxies.https.is_some() || proxies.http.is_some()).then_some(proxies)
}
