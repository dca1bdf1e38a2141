//! A real Envoy with the shipped configuration.

use std::{fs, net::SocketAddr, process::Command};

use tempfile::TempDir;
use tollgate::server::ListenAddr;

use super::{client, free_port, process::Process, program, upstream::Upstream};

/// `envoy/envoy.yaml`, and the changes that a test makes to it.
#[derive(Clone)]
pub struct Config(program::Config);

impl Config {
    /// The file as shipped.
    pub fn shipped() -> Self {
        let text = include_str!("../../envoy/envoy.yaml");
        Self(program::Config::new("envoy.yaml", text))
    }

    /// Replaces `old`, which must occur exactly once, with `new`.
    pub fn with_all(self, times: usize, old: &str, new: &str) -> Self {
        Self(self.0.with_all(times, old, new))
    }

    /// Replaces `old`, which must occur exactly once, with `new`.
    pub fn with(self, old: &str, new: &str) -> Self {
        Self(self.0.with(old, new))
    }

    /// The contract for any Envoy, instead of the one for 1.38 and later.
    pub fn path_prefix(self) -> Self {
        self.with("path_override: /v1/check\n", "path_prefix: /v1/envoy\n")
    }

    /// Asks over HTTP/2.
    pub fn http2(self) -> Self {
        self.with(
            "  http_protocol_options: {}\n",
            "  http2_protocol_options: {}\n",
        )
    }

    /// Passes paths on as clients write them.
    pub fn raw_paths(self) -> Self {
        self.with("normalize_path: true", "normalize_path: false")
            .with("merge_slashes: true", "merge_slashes: false")
    }

    /// A check that fails becomes a 503 for the client.
    pub fn fail_closed(self) -> Self {
        self.with("failure_mode_allow: true\n", "failure_mode_allow: false\n")
    }

    /// With such long time-outs that none of Envoy's decides on a slow machine.
    pub fn patient(self) -> Self {
        self.with(
            "                  timeout: 1s\n",
            "                  timeout: 20s\n",
        )
        .with("max_interval: 1s }", "max_interval: 20s }")
        .with_all(2, "connect_timeout: 1s", "connect_timeout: 20s")
    }

    fn addresses(
        self,
        port: u16,
        admin: u16,
        tollgates: &[&ListenAddr],
        upstream: SocketAddr,
    ) -> Self {
        let config = self
            .with(
                "{ address: 0.0.0.0, port_value: 8080 }",
                &format!("{{ address: 127.0.0.1, port_value: {port} }}"),
            )
            .with("port_value: 9901 }", &format!("port_value: {admin} }}"))
            .with(
                "{ address: upstream, port_value: 8083 }",
                &socket_address(upstream),
            );
        let endpoint = "        - endpoint:\n            address:\n              ";
        let asked =
            format!("{endpoint}socket_address: {{ address: tollgate, port_value: 8081 }}\n");
        let endpoints: String = tollgates
            .iter()
            .map(|addr| match addr {
                ListenAddr::Tcp(addr) => {
                    format!("{endpoint}socket_address: {}\n", socket_address(*addr))
                }
                ListenAddr::Unix(path) => {
                    format!("{endpoint}pipe: {{ path: {} }}\n", path.display())
                }
            })
            .collect();
        let config = config.with(&asked, &endpoints);
        if tollgates
            .iter()
            .any(|addr| matches!(addr, ListenAddr::Unix(_)))
        {
            return config.with(
                "type: STRICT_DNS                       # every",
                "type: STATIC # every",
            );
        }
        config
    }
}

fn socket_address(addr: SocketAddr) -> String {
    format!("{{ address: {}, port_value: {} }}", addr.ip(), addr.port())
}

/// An Envoy that ends when it is dropped.
pub struct Envoy {
    process: Process,
    /// The address for clients.
    pub addr: SocketAddr,
    admin: SocketAddr,
    _dir: TempDir,
}

impl Envoy {
    /// Starts an Envoy in front of `upstream` that asks `tollgates`, and waits until it serves.
    /// Fails if it warned.
    pub async fn start(config: Config, tollgates: &[&ListenAddr], upstream: &Upstream) -> Self {
        let (port, admin) = (free_port(), free_port());
        let config = config.addresses(port, admin, tollgates, upstream.addr);
        Self::run(config.0.text(), port, admin, &[]).await
    }

    /// Starts an Envoy with a configuration for these ports, and waits until it serves. Fails if it
    /// warned of anything but what is `known`.
    pub async fn run(config: &str, port: u16, admin_port: u16, known: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("envoy.yaml");
        fs::write(&file, config).unwrap();
        let mut command =
            Command::new(program::find("envoy", Some("TOLLGATE_TEST_ENVOY"), INSTALL));
        // With hot restart, only one Envoy could run on the machine. By default the access log is
        // only written every 10 s.
        command.arg("-c").arg(&file).args([
            "--disable-hot-restart",
            "--file-flush-interval-msec",
            "50",
        ]);
        command.args(["--concurrency", "2"]);
        let process = Process::spawn("envoy", &mut command, dir.path(), INSTALL);
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut envoy = Self {
            process,
            addr: local(port),
            admin: local(admin_port),
            _dir: dir,
        };
        let (addr, admin) = (envoy.addr, envoy.admin);
        let is_live = async || {
            let Ok(mut connection) = client::Connection::open(admin).await else {
                return false;
            };
            let live = connection.ask(&client::head("GET", "/ready", &[])).await;
            live.is_ok_and(|answer| answer.status == 200)
                && client::Connection::open(addr).await.is_ok()
        };
        envoy.process.until_ready(is_live).await;
        let log = envoy.process.log();
        let complaint = log.lines().find(|line| {
            ["warning", "error", "critical"]
                .iter()
                .any(|l| line.contains(&format!("[{l}]")))
                && !known.iter().any(|text| line.contains(text))
        });
        assert_eq!(complaint, None, "Envoy complains about its configuration");
        envoy
    }

    /// A counter of Envoy's; 0 if it has never counted.
    pub async fn stat(&self, name: &str) -> u64 {
        let answer = client::get(self.admin, &format!("/stats?filter=^{name}$")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let value = answer.body.trim().rsplit(": ").next().unwrap_or_default();
        if value.is_empty() {
            0
        } else {
            value.parse().unwrap_or_else(|_| panic!("{name}: {value}"))
        }
    }

    /// The number of failed checks: no response, a late one, or "cannot decide".
    pub async fn check_errors(&self) -> u64 {
        self.stat("http.ingress.ext_authz.tollgate.error").await
    }

    /// The lines of its access log so far.
    pub fn access_log(&self) -> String {
        self.process.output()
    }
}

const INSTALL: &str = "install it with: scripts/install-test-deps.sh";
