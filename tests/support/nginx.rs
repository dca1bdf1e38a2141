//! A real nginx with the shipped configuration.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{client, free_port, process::Process, program};

/// `nginx/nginx.conf`, and the changes that a test makes to it.
#[derive(Clone)]
pub struct Config(program::Config);

impl Config {
    /// The file as shipped.
    pub fn shipped() -> Self {
        Self::of(include_str!("../../nginx/nginx.conf"))
    }

    /// Another file, with the same addresses in the same form.
    pub fn of(text: &str) -> Self {
        Self(program::Config::new("nginx.conf", text))
    }

    /// Replaces `old`, which must occur exactly once, with `new`.
    pub fn with(self, old: &str, new: &str) -> Self {
        Self(self.0.with(old, new))
    }

    fn addresses(
        self,
        dir: &Path,
        listen: SocketAddr,
        tollgate: SocketAddr,
        upstream: SocketAddr,
    ) -> String {
        let config = self
            .with("listen 0.0.0.0:8080;", &format!("listen {listen};"))
            .with("server tollgate:8081;", &format!("server {tollgate};"))
            .with("server upstream:8083;", &format!("server {upstream};"));
        let files = format!("{}/nginx", dir.display());
        // The pid file and five directories.
        let moved = config.0.with_all(6, " /tmp/nginx", &format!(" {files}"));
        moved.text().to_owned()
    }
}

/// An nginx that ends when it is dropped.
pub struct Nginx {
    process: Process,
    /// The address for clients.
    pub addr: SocketAddr,
    _dir: TempDir,
}

impl Nginx {
    /// Starts an nginx in front of `upstream` that asks `tollgate`, and waits until it serves.
    pub async fn start(config: Config, tollgate: SocketAddr, upstream: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Started by root, its workers run as another user and need access to these files.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let file = dir.path().join("nginx.conf");
        fs::write(
            &file,
            config.addresses(dir.path(), addr, tollgate, upstream),
        )
        .unwrap();
        let mut command = Command::new(program::find("nginx", None, INSTALL));
        command
            .args(["-e", "stderr", "-g", "daemon off;", "-c"])
            .arg(&file)
            .arg("-p")
            .arg(dir.path());
        let process =
            Process::spawn("nginx", &mut command, dir.path(), INSTALL).ended_by(Signal::TERM);
        let mut nginx = Self {
            process,
            addr,
            _dir: dir,
        };
        nginx
            .process
            .until_ready(async || client::Connection::open(addr).await.is_ok())
            .await;
        assert_eq!(nginx.log(), "", "nginx complains");
        nginx
    }

    /// The lines of its error log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The lines of its access log so far.
    pub fn access_log(&self) -> String {
        self.process.output()
    }
}

const INSTALL: &str = "install it with: apt-get install nginx-light";
