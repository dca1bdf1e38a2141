//! A real HAProxy with the shipped configuration.

use std::{fs, net::SocketAddr, process::Command};

use tempfile::TempDir;

use super::{
    client, free_port,
    process::Process,
    program::{self, Config},
};

/// `haproxy/haproxy.cfg`, as shipped.
pub fn shipped() -> Config {
    Config::new("haproxy.cfg", include_str!("../../haproxy/haproxy.cfg"))
}

/// With such long time-outs that none of HAProxy's decides on a slow machine.
pub fn patient() -> Config {
    shipped()
        .with("/v1/check 2200 open", "/v1/check 30000 open")
        .with("timeout connect 1s", "timeout connect 20s")
        .with("timeout server  1s", "timeout server  20s")
}

/// A HAProxy that ends when it is dropped.
pub struct Haproxy {
    _process: Process,
    /// The address for clients.
    pub addr: SocketAddr,
    _dir: TempDir,
}

impl Haproxy {
    /// Starts a HAProxy in front of `upstream` that asks `tollgate`, and waits until it serves.
    pub async fn start(config: Config, tollgate: SocketAddr, upstream: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lua = dir.path().join("tollgate.lua");
        fs::write(&lua, include_str!("../../haproxy/tollgate.lua")).unwrap();
        let [addr, checks] =
            [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let config = config
            .with("bind 0.0.0.0:8080", &format!("bind {addr}"))
            .with_all(2, "127.0.0.1:8084", &checks.to_string())
            .with(
                "server tollgate tollgate:8081",
                &format!("server tollgate {tollgate}"),
            )
            .with(
                "server app upstream:8083",
                &format!("server app {upstream}"),
            )
            .with("haproxy/tollgate.lua\n", &format!("{}\n", lua.display()));
        let file = dir.path().join("haproxy.cfg");
        fs::write(&file, config.text()).unwrap();
        let mut command = Command::new(program::find("haproxy", None, INSTALL));
        command.arg("-f").arg(&file);
        let mut process = Process::spawn("haproxy", &mut command, dir.path(), INSTALL);
        process
            .until_ready(async || client::Connection::open(addr).await.is_ok())
            .await;
        let log = process.log();
        let complaint = log.lines().find(|line| {
            ["[WARNING]", "[ALERT]"]
                .iter()
                .any(|level| line.contains(level))
        });
        assert_eq!(complaint, None, "HAProxy complains about its configuration");
        Self {
            _process: process,
            addr,
            _dir: dir,
        }
    }
}

const INSTALL: &str = "install it with: apt-get install haproxy";
