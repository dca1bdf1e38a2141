//! A real Caddy with the shipped configuration.

use std::{fs, net::SocketAddr, process::Command};

use tempfile::TempDir;

use super::{
    client, free_port,
    process::Process,
    program::{self, Config},
};

/// `caddy/Caddyfile`, as shipped.
pub fn shipped() -> Config {
    Config::new("Caddyfile", include_str!("../../caddy/Caddyfile"))
}

/// With such long time-outs that none of Caddy's decides on a slow machine.
pub fn patient() -> Config {
    shipped()
        .with("dial_timeout 1s", "dial_timeout 20s")
        .with("response_header_timeout 1s", "response_header_timeout 20s")
}

/// A Caddy that ends when it is dropped.
pub struct Caddy {
    _process: Process,
    /// The address for clients.
    pub addr: SocketAddr,
    _dir: TempDir,
}

impl Caddy {
    /// Starts a Caddy in front of `upstream` that asks `tollgate`, and waits until it serves.
    pub async fn start(config: Config, tollgate: SocketAddr, upstream: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = config
            .with("http://:8080 {", &format!("http://:{} {{", addr.port()))
            .with(
                "reverse_proxy tollgate:8081",
                &format!("reverse_proxy {tollgate}"),
            )
            .with_all(
                2,
                "reverse_proxy upstream:8083",
                &format!("reverse_proxy {upstream}"),
            );
        let file = dir.path().join("Caddyfile");
        fs::write(&file, config.text()).unwrap();
        let mut command =
            Command::new(program::find("caddy", Some("TOLLGATE_TEST_CADDY"), INSTALL));
        command
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(&file)
            // Where it would keep certificates.
            .env("HOME", dir.path());
        let mut process = Process::spawn("caddy", &mut command, dir.path(), INSTALL);
        process
            .until_ready(async || client::Connection::open(addr).await.is_ok())
            .await;
        let log = process.log();
        // That there is no admin port and no TLS is what the file asks for.
        let asked_for = ["admin endpoint disabled", "requires TLS"];
        let complaint = log.lines().find(|line| {
            let levels = ["\"warn\"", "\"error\""];
            levels.iter().any(|level| line.contains(level))
                && !asked_for.iter().any(|text| line.contains(text))
        });
        assert_eq!(complaint, None, "Caddy complains about its configuration");
        Self {
            _process: process,
            addr,
            _dir: dir,
        }
    }
}

const INSTALL: &str = "install it with: scripts/install-test-deps.sh";
