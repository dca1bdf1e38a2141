//! A real Redis for one test.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    certs::{Authority, Identity},
    eventually, free_port,
};

/// A `redis-server` that ends when it is dropped.
pub struct Redis {
    child: Option<Child>,
    port: u16,
    dir: TempDir,
    /// Further arguments of `redis-server`.
    server_args: Vec<String>,
    access: Access,
}

/// How a server is spoken to.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub password: Option<String>,
    /// It speaks TLS only.
    pub tls: Option<Tls>,
}

/// The files of servers that speak TLS, and of `redis-cli`.
#[derive(Debug, Clone)]
pub struct Tls {
    pub ca: PathBuf,
    pub server: Identity,
    pub client: Identity,
    /// Whether clients need a certificate.
    pub asks: bool,
}

impl Tls {
    /// With a certificate for servers and one for `redis-cli`, both signed by `authority`.
    pub fn by(authority: &Authority) -> Self {
        Self {
            ca: authority.cert(),
            server: authority.issue("server"),
            client: authority.issue("cli"),
            asks: true,
        }
    }

    fn server_args(&self) -> Vec<String> {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let mut args = Vec::new();
        for (name, file) in [
            ("cert", &self.server.cert),
            ("key", &self.server.key),
            ("ca-cert", &self.ca),
        ] {
            args.extend([format!("--tls-{name}-file"), path(file)]);
        }
        let asks = if self.asks { "yes" } else { "no" };
        args.extend(["--tls-auth-clients".to_owned(), asks.to_owned()]);
        args
    }

    fn cli_args(&self) -> Vec<String> {
        let mut args = vec!["--tls".to_owned()];
        for (name, file) in [
            ("cert", &self.client.cert),
            ("key", &self.client.key),
            ("cacert", &self.ca),
        ] {
            args.extend([format!("--{name}"), file.to_str().unwrap().to_owned()]);
        }
        args
    }
}

impl Redis {
    /// Starts one on a free port and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(&[], None)
    }

    /// Starts one with further arguments; `redis-cli` logs in with `password`.
    pub fn start_with(args: &[&str], password: Option<&str>) -> Self {
        let access = Access {
            password: password.map(str::to_owned),
            tls: None,
        };
        Self::start_as(&access, args)
    }

    /// Starts one that speaks TLS only, and asks clients for a certificate.
    pub fn start_tls(tls: Tls) -> Self {
        let access = Access {
            password: None,
            tls: Some(tls),
        };
        Self::start_as(&access, &[])
    }

    /// Starts one that is spoken to in this way, with further arguments. A password must be among
    /// them too.
    pub fn start_as(access: &Access, args: &[&str]) -> Self {
        let mut redis = Self::stopped_as(access);
        redis
            .server_args
            .extend(args.iter().map(|&arg| arg.to_owned()));
        redis.resume_process();
        redis
    }

    /// Presents another certificate from its next start on.
    pub fn present(&mut self, server: &Identity) {
        for (name, file) in [("cert", &server.cert), ("key", &server.key)] {
            let name = format!("--tls-{name}-file");
            let at = self
                .server_args
                .iter()
                .position(|arg| *arg == name)
                .unwrap();
            file.to_str()
                .unwrap()
                .clone_into(&mut self.server_args[at + 1]);
        }
    }

    /// Starts a Sentinel with this configuration.
    pub fn sentinel(conf: &str, access: &Access) -> Self {
        let mut redis = Self::stopped_as(access);
        let file = redis.dir.path().join("sentinel.conf");
        std::fs::write(&file, conf).unwrap();
        redis
            .server_args
            .insert(0, file.to_str().unwrap().to_owned());
        redis.server_args.push("--sentinel".to_owned());
        redis.resume_process();
        redis
    }

    /// The password with which `redis-cli` logs in.
    pub fn log_in(&mut self, password: Option<&str>) {
        self.access.password = password.map(str::to_owned);
    }

    /// A free port on which no Redis answers yet.
    pub fn stopped() -> Self {
        Self::stopped_as(&Access::default())
    }

    fn stopped_as(access: &Access) -> Self {
        Self {
            child: None,
            port: free_port(),
            dir: tempfile::tempdir().unwrap(),
            server_args: access.tls.as_ref().map_or_else(Vec::new, Tls::server_args),
            access: access.clone(),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the process (again) on the same port, and waits until it serves.
    pub fn resume_process(&mut self) {
        self.spawn();
        self.until_it_serves();
    }

    /// Starts the process with further arguments; it may take long to load what it has saved.
    pub fn spawn_with(&mut self, args: &[&str]) {
        self.server_args
            .extend(args.iter().map(|&arg| arg.to_owned()));
        self.spawn();
    }

    fn spawn(&mut self) {
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        command
            .args(&self.server_args)
            .args(["--bind", "127.0.0.1"]);
        match self.access.tls {
            Some(_) => command.args(["--port", "0", "--tls-port", &port]),
            None => command.args(["--port", &port]),
        };
        if !self.server_args.iter().any(|arg| arg == "--sentinel") {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        let child = command
            .args(["--daemonize", "no"])
            .arg("--dir")
            .arg(self.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("redis-server cannot be started ({error}); install it with: apt-get install redis-server redis-tools")
            });
        self.child = Some(child);
    }

    /// Waits until it answers as it should.
    pub fn until_it_serves(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.try_cli(&["PING"]).as_deref() != Some("PONG") {
            assert!(
                Instant::now() < deadline,
                "redis-server on port {} does not answer",
                self.port
            );
            std::thread::yield_now();
        }
    }

    pub fn url(&self) -> String {
        let tls = if self.access.tls.is_some() { "s" } else { "" };
        format!("redis{tls}://127.0.0.1:{}", self.port)
    }

    /// Kills the process; the port refuses connections.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn unpause(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("redis runs").id();
        let status = Command::new("kill")
            .args([format!("-{name}"), pid.to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// The output of `redis-cli ARGS`.
    pub fn cli(&self, args: &[&str]) -> String {
        self.try_cli(args).unwrap_or_else(|| {
            panic!("redis-cli {args:?} failed; if it is missing, install it with: apt-get install redis-tools")
        })
    }

    /// The keys of counters and bans, one per line; not those of budgets and of heartbeats.
    pub fn counters(&self) -> String {
        self.cli(&["--scan", "--pattern", "*{*:*}*"])
    }

    /// Waits until so many replicas have all that the server has written by now. `WAIT` would not
    /// do: it waits for what was written over its own connection.
    pub async fn until_replicated(&self, replicas: usize) {
        let replication = || self.cli(&["INFO", "replication"]);
        let offset = |line: &str, name: &str| -> Option<u64> {
            let (_, rest) = line.trim().split_once(name)?;
            rest.split(',').next()?.parse().ok()
        };
        let written = replication();
        let mut written = written.lines();
        let written = written.find_map(|line| offset(line, "master_repl_offset:"));
        let written = written.expect("the server has an offset");
        eventually("replicas have what was written", async || {
            let info = replication();
            let slaves = info.lines().filter(|line| line.starts_with("slave"));
            let received = slaves.filter_map(|line| offset(line, "offset="));
            received.filter(|received| *received >= written).count() >= replicas
        })
        .await;
    }

    /// What the server calls itself, `master` or `slave`; `None` while Sentinel breaks its
    /// connections, as it does when it changes that.
    pub fn role(&self) -> Option<String> {
        let answer = self.try_cli(&["ROLE"])?;
        answer.lines().next().map(str::to_owned)
    }

    /// Whether its process has not been killed.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The output of `redis-cli ARGS`, if it succeeds.
    pub fn try_cli(&self, args: &[&str]) -> Option<String> {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]);
        if let Some(password) = &self.access.password {
            command.args(["--no-auth-warning", "-a", password]);
        }
        if let Some(tls) = &self.access.tls {
            command.args(tls.cli_args());
        }
        let output = command.args(args).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned();
        output.status.success().then_some(text)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.child.is_some() {
            // A paused process does not die of SIGTERM; `kill` sends SIGKILL.
            self.kill();
        }
    }
}
