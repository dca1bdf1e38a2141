//! A primary, its replicas, and the Sentinels that watch them.

use std::time::Duration;

use super::{
    redis::{Access, Redis, Tls},
    within,
};

/// The name under which the Sentinels know the primary.
pub const NAME: &str = "mymaster";

/// Sentinels look around every ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three servers, of which one is the primary, and three Sentinels.
pub struct Sentinels {
    pub servers: Vec<Redis>,
    pub sentinels: Vec<Redis>,
}

impl Sentinels {
    /// Starts all of them, and waits until the Sentinels know everybody. Servers and Sentinels have
    /// passwords of their own, if any are given.
    pub async fn start(passwords: Option<(&str, &str)>) -> Self {
        Self::start_with(passwords, None).await
    }

    /// As [`start`](Self::start); over TLS, if there are files for it.
    pub async fn start_with(passwords: Option<(&str, &str)>, tls: Option<&Tls>) -> Self {
        let access = |password: Option<&str>| Access {
            password: password.map(str::to_owned),
            tls: tls.cloned(),
        };
        let (of_servers, of_sentinels) = passwords.unzip();
        let mut server_args = Vec::new();
        if let Some(password) = of_servers {
            server_args.extend(["--requirepass", password, "--masterauth", password]);
        }
        if tls.is_some() {
            server_args.extend(["--tls-replication", "yes"]);
        }
        let start = |more: &[&str]| {
            let args = [&server_args[..], more].concat();
            Redis::start_as(&access(of_servers), &args)
        };
        let primary = start(&[]);
        let port = primary.port().to_string();
        let replica_of = format!("127.0.0.1 {port}");
        let of_primary = ["--replicaof", &replica_of];
        let servers = vec![primary, start(&of_primary), start(&of_primary)];
        // Long enough that a busy machine makes no failover that no test asked for.
        let mut conf = format!(
            "sentinel monitor {NAME} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {NAME} 2000\n\
             sentinel failover-timeout {NAME} 2000\n"
        );
        if let Some((servers, sentinels)) = passwords {
            conf.extend([
                format!("sentinel auth-pass {NAME} {servers}\n"),
                format!("requirepass {sentinels}\nsentinel sentinel-pass {sentinels}\n"),
            ]);
        }
        if tls.is_some() {
            // Sentinels speak to each other and to servers as replicas do.
            conf.push_str("tls-replication yes\n");
        }
        let sentinels = (0..3).map(|_| Redis::sentinel(&conf, &access(of_sentinels)));
        let all = Self {
            servers,
            sentinels: sentinels.collect(),
        };
        within(PATIENCE, "they know each other", async || {
            all.sentinels.iter().all(|sentinel| {
                let seen = sentinel.cli(&["SENTINEL", "MASTER", NAME]);
                let words: Vec<&str> = seen.lines().collect();
                let value = |name: &str| {
                    let at = words.iter().position(|word| *word == name)?;
                    words.get(at + 1).copied()
                };
                value("num-slaves") == Some("2") && value("num-other-sentinels") == Some("2")
            })
        })
        .await;
        all
    }

    /// `HOST:PORT` of each Sentinel.
    pub fn hosts(&self) -> String {
        let hosts = self.sentinels.iter();
        let hosts: Vec<String> = hosts.map(|s| format!("127.0.0.1:{}", s.port())).collect();
        hosts.join(",")
    }

    /// The position of the server that the first Sentinel which runs calls the primary.
    pub fn primary(&self) -> usize {
        let answer = self.sentinels[0].cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
        let port: u16 = answer.lines().nth(1).unwrap().parse().unwrap();
        let mut servers = self.servers.iter();
        servers.position(|server| server.port() == port).unwrap()
    }

    /// Waits until another server than `old` is the primary.
    pub async fn until_another_than(&self, old: usize) -> usize {
        within(PATIENCE, "another primary", async || self.primary() != old).await;
        self.primary()
    }
}
