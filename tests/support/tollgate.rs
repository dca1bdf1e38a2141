//! The built `tollgate` binary.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use rustix::process::Signal;
use tempfile::TempDir;
use tollgate::server::ListenAddr;

use super::{
    client::{self, Response},
    eventually, free_port,
    process::{Holdings, Process},
    redis::Redis,
};

/// Options to start one.
#[derive(Default)]
pub struct Settings<'a> {
    /// The text of the rule file.
    pub rules: &'a str,
    /// The Redis to count in; without one, in memory.
    pub redis: Option<&'a Redis>,
    /// Listen on a Unix socket.
    pub unix: bool,
    /// A file that it sees as `/etc/hosts`, and the only place where it finds names. Needs root, or
    /// a system that lets users have namespaces of their own.
    pub hosts: Option<&'a Path>,
    /// The file with the authorities that it takes for those of the system.
    pub authorities: Option<&'a Path>,
    /// Further arguments.
    pub args: &'a [&'a str],
}

/// A `tollgate serve` that ends when it is dropped.
pub struct Tollgate {
    process: Process,
    pub listen: ListenAddr,
    pub admin: SocketAddr,
    command: Vec<String>,
    dir: TempDir,
}

impl Tollgate {
    /// Starts one and waits until all its components are well.
    pub async fn start(settings: Settings<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rules = dir.path().join("rules.yaml");
        fs::write(&rules, settings.rules).unwrap();
        let listen = if settings.unix {
            ListenAddr::Unix(dir.path().join("check.sock"))
        } else {
            ListenAddr::Tcp(loopback(free_port()))
        };
        let admin = loopback(free_port());
        let mut command = match settings.hosts {
            Some(hosts) => with_hosts(hosts, dir.path()),
            None => vec![PROGRAM.to_owned()],
        };
        if let Some(authorities) = settings.authorities {
            let variable = format!("SSL_CERT_FILE={}", authorities.display());
            command.splice(0..0, ["env".to_owned(), variable]);
        }
        command.push("serve".to_owned());
        command.push(format!("--rules={}", rules.display()));
        command.push(format!("--listen={listen}"));
        command.push(format!("--admin={admin}"));
        if let Some(redis) = settings.redis {
            command.push(format!("--redis-url={}", redis.url()));
        }
        command.extend(settings.args.iter().map(|&arg| arg.to_owned()));
        let mut tollgate = Self {
            process: spawn(&command, dir.path()),
            listen,
            admin,
            command,
            dir,
        };
        tollgate.until_ok().await;
        tollgate
    }

    /// Starts it again with the same settings, after it has ended.
    pub async fn start_again(&mut self) {
        self.process = spawn(&self.command, self.dir.path());
        self.until_ok().await;
    }

    async fn until_ok(&mut self) {
        let admin = self.admin;
        self.process
            .until_ready(async || {
                let Ok(mut connection) = client::Connection::open(admin).await else {
                    return false;
                };
                let answer = connection.ask(&client::head("GET", "/readyz", &[])).await;
                answer.is_ok_and(|answer| answer.json()["status"] == "ok")
            })
            .await;
    }

    /// The address for checks over TCP.
    pub fn addr(&self) -> SocketAddr {
        match &self.listen {
            ListenAddr::Tcp(addr) => *addr,
            ListenAddr::Unix(path) => panic!("it listens on {}", path.display()),
        }
    }

    /// A response of the admin port.
    pub async fn ask_admin(&self, path: &str) -> Response {
        client::get(self.admin, path).await
    }

    /// Waits until `/readyz` says `status`.
    pub async fn until_status(&self, status: &str) {
        eventually(&format!("/readyz says {status}"), async || {
            self.ask_admin("/readyz").await.json()["status"] == status
        })
        .await;
    }

    /// The sum of the metrics whose lines begin with `prefix`. At least one must exist.
    pub async fn metric(&self, prefix: &str) -> u64 {
        let text = self.ask_admin("/metrics").await.body;
        let lines = text.lines().filter(|line| line.starts_with(prefix));
        let values: Vec<u64> = lines
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(!values.is_empty(), "no metric {prefix}");
        values.iter().sum()
    }

    /// The rule file.
    pub fn rules(&self) -> PathBuf {
        self.dir.path().join("rules.yaml")
    }

    /// Its log so far. A line is written a moment after its event: wait for it with
    /// [`until_logged`](Self::until_logged).
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until the log contains this text.
    pub async fn until_logged(&self, text: &str) {
        let is_there = async || self.log().contains(text);
        eventually(&format!("the log has {text:?}"), is_there).await;
    }

    /// What its process holds now.
    pub fn holds(&self) -> Holdings {
        self.process.holds()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        self.process.ended().await
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_tollgate");

/// How many threads serve checks, unless a test says otherwise.
const THREADS: &str = "2";

/// The beginning of a command that runs it with another `/etc/hosts`, in a mount namespace of its
/// own.
fn with_hosts(hosts: &Path, dir: &Path) -> Vec<String> {
    let switch = dir.join("nsswitch.conf");
    fs::write(&switch, "hosts: files\n").unwrap();
    let script = format!(
        "mount --bind {} /etc/hosts && mount --bind {} /etc/nsswitch.conf && exec \"$@\"",
        hosts.display(),
        switch.display()
    );
    let as_root: &[&str] = if rustix::process::geteuid().is_root() {
        &[]
    } else {
        &["--user", "--map-root-user"]
    };
    let unshare = [
        &["unshare", "--mount"],
        as_root,
        &["sh", "-c", &script, "sh", PROGRAM],
    ];
    unshare.concat().into_iter().map(str::to_owned).collect()
}

fn spawn(args: &[String], dir: &Path) -> Process {
    let mut command = Command::new(&args[0]);
    // Settings of a tollgate in the environment of the person who runs the tests.
    for (name, _) in std::env::vars_os() {
        if name == "REDIS_URL" || name.to_string_lossy().starts_with("TOLLGATE_") {
            command.env_remove(name);
        }
    }
    // The same on every machine.
    command.env("TOLLGATE_THREADS", THREADS);
    Process::spawn(
        "tollgate",
        command.args(&args[1..]),
        dir,
        "build it with: cargo build",
    )
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
