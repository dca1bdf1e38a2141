//! How Redis is reached: the URL, and the files with what must not be in one.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};

use super::address::Address;
use crate::{counter_key::KeyPrefix, problem::Problem};

/// How to reach Redis. Its `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct Options {
    pub(super) server: Server,
    /// The file with the password of Redis. Read for each connection, so that a changed password
    /// needs no restart.
    pub password_file: Option<PathBuf>,
    /// The files for TLS.
    pub tls: TlsFiles,
    /// How Sentinels want to be spoken to.
    pub sentinel: SentinelLogin,
    /// How keys begin.
    pub key_prefix: KeyPrefix,
    /// Connections that carry checks. Each is one task; two keep both Redis and two cores busy.
    pub lanes: usize,
    /// The most checks in one call of the script.
    pub batch: usize,
    /// The longest that a check waits. Several in a row that have waited so long open the breaker.
    pub deadline: Duration,
    /// How long a reply is awaited before the connection counts as broken. Longer than a check's
    /// deadline: a Redis that is slow for a moment need not be reconnected.
    pub answer_timeout: Duration,
}

/// The most checks in one call, unless another number is given.
pub const BATCH: usize = 32;

/// The files for TLS, in PEM. They are read for each connection, so that replaced certificates need
/// no restart.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// The authorities that may have signed the server's certificate; by default those of the
    /// system.
    pub ca: Option<PathBuf>,
    /// Our certificate, if Redis asks for one, with those between it and its authority.
    pub cert: Option<PathBuf>,
    /// The private key of our certificate.
    pub key: Option<PathBuf>,
}

/// The login at Sentinels, which are not asked with that of Redis.
#[derive(Debug, Clone, Default)]
pub struct SentinelLogin {
    /// The user; by default the Sentinels' default user.
    pub user: Option<String>,
    /// The file with the password. Read for each connection.
    pub password_file: Option<PathBuf>,
}

/// The server that a URL names.
#[derive(Debug, Clone)]
pub(super) enum Server {
    /// One Redis.
    One(ConnectionInfo),
    /// Whichever Redis the Sentinels call the primary.
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        /// The name of the primary in the Sentinels' configuration.
        service: String,
        /// How the primary is spoken to; its address is not known.
        primary: ConnectionInfo,
    },
    /// The nodes of a Redis Cluster.
    Cluster {
        /// Those that are asked for all others.
        seeds: Vec<Address>,
        /// How nodes are spoken to; their addresses are not known.
        node: ConnectionInfo,
    },
}

/// The forms of a URL.
const FORMS: &str = "it looks like redis://[user[:password]@]host[:port][/db], \
    redis+sentinel://host[:port],host[:port]/primary[/db], redis-cluster://host[:port],host[:port] \
    or unix:///path; rediss://, rediss+sentinel:// and rediss-cluster:// are over TLS";

/// The port of a Sentinel.
const SENTINEL_PORT: u16 = 26379;

impl Options {
    /// Reads a URL: `redis://[user[:password]@]host[:port][/db]`,
    /// `redis+sentinel://[user[:password]@]host[:port],…/primary[/db]` or
    /// `redis-cluster://[user[:password]@]host[:port],…`, all with `rediss` for TLS, or
    /// `unix:///path[?db=N]`. The login in the URL is that of Redis, not of Sentinels.
    ///
    /// No error repeats the URL, because it may hold a password.
    pub fn parse(url: &str) -> Result<Self, Problem> {
        Ok(Self {
            server: Server::parse(url)?,
            password_file: None,
            tls: TlsFiles::default(),
            sentinel: SentinelLogin::default(),
            key_prefix: KeyPrefix::default(),
            lanes: 1,
            batch: BATCH,
            deadline: Duration::from_millis(50),
            answer_timeout: Duration::from_millis(250),
        })
    }

    /// What contradicts itself in these options.
    pub(super) fn contradiction(&self) -> Option<Problem> {
        let TlsFiles { ca, cert, key } = &self.tls;
        let has_files = ca.is_some() || cert.is_some() || key.is_some();
        if has_files && !self.server.is_tls() {
            return Some(Problem::new(
                "certificates are given, and the URL is not one for TLS",
                "write rediss:// in --redis-url",
            ));
        }
        if cert.is_some() != key.is_some() {
            return Some(Problem::new(
                "of a client certificate and its key, only one is given",
                "give both --redis-cert and --redis-key",
            ));
        }
        None
    }
}

impl Server {
    fn parse(url: &str) -> Result<Self, Problem> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(invalid("it has no scheme"));
        };
        if url.contains('#') {
            return Err(Problem::new(
                "the Redis URL has a fragment, which would switch the check of certificates off",
                "name your own authority with --redis-ca; write a `#` in a password as %23",
            ));
        }
        match scheme {
            "redis" | "rediss" | "unix" | "redis+unix" => Ok(Self::One(one(url)?)),
            "redis+sentinel" => Self::sentinel("redis", rest),
            "rediss+sentinel" => Self::sentinel("rediss", rest),
            "redis-cluster" => Self::cluster("redis", rest),
            "rediss-cluster" => Self::cluster("rediss", rest),
            _ => Err(invalid("it has an unknown scheme")),
        }
    }

    /// `[user[:password]@]host[:port],…/primary[/db]`; `scheme` is that of one server.
    fn sentinel(scheme: &str, rest: &str) -> Result<Self, Problem> {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (service, db) = path.split_once('/').unwrap_or((path, ""));
        if service.is_empty() {
            return Err(Problem::new(
                "the Redis URL does not name the primary that Sentinels are asked for",
                "write it behind the hosts: redis+sentinel://host:26379/mymaster",
            ));
        }
        let (login, hosts) = split_login(authority);
        let sentinels = hosts.split(',').map(|host| {
            let mut url = format!("{scheme}://{host}");
            let port = host.rsplit_once(':').map(|(_, port)| port);
            if port.is_none_or(|port| port.ends_with(']')) {
                let _ = write!(url, ":{SENTINEL_PORT}");
            }
            one(&url)
        });
        Ok(Self::Sentinel {
            sentinels: sentinels.collect::<Result<_, _>>()?,
            service: service.to_owned(),
            primary: one(&format!("{scheme}://{login}primary/{db}"))?,
        })
    }

    /// `[user[:password]@]host[:port],…[/0]`; `scheme` is that of one server.
    fn cluster(scheme: &str, rest: &str) -> Result<Self, Problem> {
        let (authority, db) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(db, "" | "0") {
            return Err(Problem::new(
                "the Redis URL names a database, and a cluster has only database 0",
                "leave it out; to keep two installations apart, use --key-prefix",
            ));
        }
        let (login, hosts) = split_login(authority);
        let seeds = hosts.split(',').map(|host| {
            let info = one(&format!("{scheme}://{host}"))?;
            match info.addr() {
                ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                    Ok(Address::new(host, *port))
                }
                _ => Err(invalid("it names no host")),
            }
        });
        Ok(Self::Cluster {
            seeds: seeds.collect::<Result<_, _>>()?,
            node: one(&format!("{scheme}://{login}node"))?,
        })
    }

    /// Whether it is spoken to over TLS.
    pub(super) fn is_tls(&self) -> bool {
        let (Self::One(info)
        | Self::Sentinel { primary: info, .. }
        | Self::Cluster { node: info, .. }) = self;
        matches!(info.addr(), ConnectionAddr::TcpTls { .. })
    }
}

/// `user:password@` or nothing, and what follows it.
fn split_login(authority: &str) -> (&str, &str) {
    match authority.rfind('@') {
        Some(at) => authority.split_at(at + 1),
        None => ("", authority),
    }
}

fn one(url: &str) -> Result<ConnectionInfo, Problem> {
    url.into_connection_info()
        .map_err(|error| invalid(error.category()))
}

fn invalid(why: &str) -> Problem {
    Problem::new(format!("the Redis URL is not valid: {why}"), FORMS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address of each server, the database and the user.
    fn read(url: &str) -> String {
        let options = Options::parse(url).unwrap_or_else(|problem| panic!("{url}: {problem}"));
        let settings = |info: &ConnectionInfo| {
            let redis = info.redis_settings();
            let user = redis.username().unwrap_or("-");
            let password = redis.password().map_or("-", |_| "password");
            format!("db {} {user} {password}", redis.db())
        };
        let tls = if options.server.is_tls() { "tls " } else { "" };
        match &options.server {
            Server::One(info) => format!("{tls}{} {}", info.addr(), settings(info)),
            Server::Sentinel {
                sentinels,
                service,
                primary,
            } => {
                let addrs: Vec<String> = sentinels
                    .iter()
                    .map(|info| info.addr().to_string())
                    .collect();
                format!("{tls}{} {service} {}", addrs.join(","), settings(primary))
            }
            Server::Cluster { seeds, node } => {
                let seeds: Vec<String> = seeds.iter().map(ToString::to_string).collect();
                format!("{tls}{} {}", seeds.join(","), settings(node))
            }
        }
    }

    #[test]
    fn every_form_of_a_url_is_read() {
        for (url, expected) in [
            ("redis://h", "h:6379 db 0 - -"),
            ("redis://u:p@h:1/2", "h:1 db 2 u password"),
            ("redis://:p%23@h", "h:6379 db 0 - password"),
            // As docker-compose.yml writes it when no password is set.
            ("redis://:@h:6379/0", "h:6379 db 0 - -"),
            ("rediss://h:6380", "tls h:6380 db 0 - -"),
            ("unix:///run/redis.sock?db=3", "/run/redis.sock db 3 - -"),
            (
                "redis+sentinel://a,b:1,[::1]/m",
                "a:26379,b:1,::1:26379 m db 0 - -",
            ),
            (
                "rediss+sentinel://u:p@a:2/mymaster/4",
                "tls a:2 mymaster db 4 u password",
            ),
            (
                "redis-cluster://a,b:1,[::1]:2",
                "a:6379,b:1,[::1]:2 db 0 - -",
            ),
            ("rediss-cluster://u:p@a/0", "tls a:6379 db 0 u password"),
        ] {
            assert_eq!(read(url), expected, "{url}");
        }
    }

    #[test]
    fn a_bad_url_is_reported_without_its_password() {
        for (url, part) in [
            ("redis//u:hunter2@h", "no scheme"),
            ("http://u:hunter2@h", "unknown scheme"),
            ("redis://u:hunter2@h:x", "not valid"),
            ("redis://u:hunter2@h/x", "not valid"),
            ("rediss://u:hunter2@h/#insecure", "fragment"),
            (
                "redis+sentinel://u:hunter2@h:1",
                "does not name the primary",
            ),
            ("redis+sentinel://u:hunter2@h:1/m/x", "not valid"),
            ("redis+sentinel://u:hunter2@/m", "not valid"),
            ("redis-cluster://u:hunter2@h/1", "only database 0"),
            ("redis-cluster://u:hunter2@", "not valid"),
            ("rediss-cluster://u:hunter2@h,", "not valid"),
        ] {
            let problem = Options::parse(url).unwrap_err();
            let text = format!("{problem} {problem:?}");
            assert!(text.contains(part), "{url}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
            assert!(!problem.hint.is_empty(), "{url}");
        }
    }

    #[test]
    fn debug_shows_no_password() {
        for url in [
            "redis://u:hunter2@h",
            "redis+sentinel://u:hunter2@h/m",
            "redis-cluster://u:hunter2@h",
        ] {
            let shown = format!("{:?}", Options::parse(url).unwrap());
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn files_for_tls_need_tls_and_each_other() {
        let mut options = Options::parse("redis://h").unwrap();
        assert!(options.contradiction().is_none());
        options.tls.ca = Some("ca.pem".into());
        let text = options.contradiction().unwrap().to_string();
        assert!(text.contains("rediss://"), "{text}");

        let mut options = Options::parse("rediss://h").unwrap();
        options.tls.cert = Some("cert.pem".into());
        let text = options.contradiction().unwrap().to_string();
        assert!(text.contains("--redis-key"), "{text}");
        options.tls.key = Some("key.pem".into());
        assert!(options.contradiction().is_none());
    }
}
