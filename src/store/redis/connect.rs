//! Makes connections to Redis: with what the files say now, and to the primary that Sentinels name
//! now.
//!
//! The `redis` crate does the protocol, the login and TLS. Its own client for Sentinels asks one
//! after the other, with fixed time-outs: the first one that is gone would hold up every attempt.
//! So they are asked at once here.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo,
    RedisConnectionInfo, TlsCertificates, Value, aio::MultiplexedConnection,
};
use tokio::task::{JoinSet, spawn_blocking};

use super::{
    address::Address,
    options::{Options, Server, TlsFiles},
    replies,
};
use crate::{problem::Problem, store::StoreError};

/// Makes connections. Each attempt reads the files anew.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    options: Options,
    config: AsyncConnectionConfig,
}

/// The longest that an attempt to connect may take at least: TLS, a login and Sentinels are several
/// round trips, and no check waits for them.
const ATTEMPT: Duration = Duration::from_secs(1);

impl Connector {
    /// A connector; it connects to nothing yet. An error if the options contradict themselves, or
    /// name files that cannot be read.
    pub(super) fn new(options: &Options) -> Result<Self, Problem> {
        if let Some(problem) = options.contradiction() {
            return Err(problem);
        }
        let Options {
            password_file,
            tls: TlsFiles { ca, cert, key },
            sentinel,
            ..
        } = options;
        let files = [password_file, ca, cert, key, &sentinel.password_file];
        for file in files.into_iter().flatten() {
            read(file).map_err(|error| {
                Problem::new(
                    unreadable(file, &error),
                    "name a file that tollgate may read, or leave the option out",
                )
            })?;
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(options.answer_timeout.max(ATTEMPT)))
            .set_response_timeout(Some(options.answer_timeout.max(ATTEMPT)));
        Ok(Self {
            options: options.clone(),
            config,
        })
    }

    /// The nodes of a cluster that are asked for all others.
    pub(super) fn seeds(&self) -> Vec<Address> {
        match &self.options.server {
            Server::Cluster { seeds, .. } => seeds.clone(),
            Server::One(_) | Server::Sentinel { .. } => Vec::new(),
        }
    }

    /// A connector to one node of the cluster.
    pub(super) fn to(&self, node: &Address) -> Self {
        let mut connector = self.clone();
        if let Server::Cluster { node: info, .. } = &self.options.server {
            connector.options.server = Server::One(at(info, node.host.clone(), node.port));
        }
        connector
    }

    /// The longest that an attempt to connect may take.
    pub(super) fn patience(&self) -> Duration {
        self.options.answer_timeout.max(ATTEMPT)
    }

    /// Connects to the Redis that takes writes.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let certificates = self.certificates().await?;
        let password = password(self.options.password_file.as_deref()).await?;
        match &self.options.server {
            Server::One(info) => {
                let info = with_password(info, password);
                self.open(info, certificates).await
            }
            Server::Sentinel {
                sentinels,
                service,
                primary,
            } => {
                let primary = with_password(primary, password);
                self.primary(sentinels, service, &primary, certificates)
                    .await
            }
            Server::Cluster { .. } => Err(StoreError::Unavailable(
                "of a cluster, one node must be named".to_owned(),
            )),
        }
    }

    async fn open(
        &self,
        info: ConnectionInfo,
        certificates: Option<TlsCertificates>,
    ) -> Result<MultiplexedConnection, StoreError> {
        open(info, certificates, &self.config)
            .await
            .map_err(|error| replies::refused(&error))
    }

    /// Asks all Sentinels at once, and connects to the first address that one of them names whose
    /// server calls itself the primary: a Sentinel that was cut off names the old one.
    async fn primary(
        &self,
        sentinels: &[ConnectionInfo],
        service: &str,
        primary: &ConnectionInfo,
        certificates: Option<TlsCertificates>,
    ) -> Result<MultiplexedConnection, StoreError> {
        let login = &self.options.sentinel;
        let mut settings = RedisConnectionInfo::default();
        if let Some(user) = &login.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = password(login.password_file.as_deref()).await? {
            settings = settings.set_password(password);
        }
        let mut asked = JoinSet::new();
        for sentinel in sentinels {
            let info = sentinel.clone().set_redis_settings(settings.clone());
            let (certificates, config) = (certificates.clone(), self.config.clone());
            let service = service.to_owned();
            asked.spawn(async move { address(info, certificates, &config, &service).await });
        }
        let mut tried = Vec::new();
        let mut failure = StoreError::Unavailable("there is no Sentinel to ask".to_owned());
        while let Some(answer) = asked.join_next().await {
            let answer = answer.unwrap_or_else(|error| Err(StoreError::Broken(error.to_string())));
            let (host, port) = match answer {
                Ok(address) if tried.contains(&address) => continue,
                Ok(address) => address,
                // What a server said about an address weighs more than a Sentinel that is gone.
                Err(error) if tried.is_empty() => {
                    failure = error;
                    continue;
                }
                Err(_) => continue,
            };
            tried.push((host.clone(), port));
            let info = at(primary, host, port);
            let name = info.addr().to_string();
            match self.open(info, certificates.clone()).await {
                Ok(mut connection) => match role(&mut connection).await {
                    Ok(role) if role == "master" => return Ok(connection),
                    Ok(role) => {
                        failure = StoreError::Refused(format!(
                            "Sentinel names {name} as the primary, and its role is {role}: a \
                             failover is under way, or that Sentinel is cut off"
                        ));
                    }
                    Err(error) => failure = error,
                },
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The certificates, if any file has some.
    async fn certificates(&self) -> Result<Option<TlsCertificates>, StoreError> {
        let TlsFiles { ca, cert, key } = &self.options.tls;
        if ca.is_none() && cert.is_none() {
            return Ok(None);
        }
        let root_cert = contents(ca.as_deref()).await?;
        let client_tls = match (
            contents(cert.as_deref()).await?,
            contents(key.as_deref()).await?,
        ) {
            (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig {
                client_cert,
                client_key,
            }),
            _ => None,
        };
        Ok(Some(TlsCertificates {
            client_tls,
            root_cert,
        }))
    }
}

async fn open(
    info: ConnectionInfo,
    certificates: Option<TlsCertificates>,
    config: &AsyncConnectionConfig,
) -> Result<MultiplexedConnection, redis::RedisError> {
    // The name of the client library is of no use, and users with few rights may not set it: newer
    // servers note each attempt in their ACL LOG.
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    let info = info.set_redis_settings(settings);
    let client = match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates)?,
        None => Client::open(info)?,
    };
    client
        .get_multiplexed_async_connection_with_config(config)
        .await
}

/// The address of the primary, as a Sentinel knows it.
async fn address(
    sentinel: ConnectionInfo,
    certificates: Option<TlsCertificates>,
    config: &AsyncConnectionConfig,
    service: &str,
) -> Result<(String, u16), StoreError> {
    let name = sentinel.addr().to_string();
    let failed = |error: &redis::RedisError| {
        StoreError::Unavailable(format!("the Sentinel at {name}: {error}"))
    };
    let mut connection = open(sentinel, certificates, config)
        .await
        .map_err(|error| failed(&error))?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
    let answer: Option<(String, u16)> = question
        .query_async(&mut connection)
        .await
        .map_err(|error| failed(&error))?;
    answer.ok_or_else(|| {
        StoreError::Refused(format!(
            "the Sentinel at {name} knows no primary called {service:?}: check the name in --redis-url"
        ))
    })
}

/// What a server calls itself: `master`, `slave` or `sentinel`.
async fn role(connection: &mut MultiplexedConnection) -> Result<String, StoreError> {
    let answer = redis::cmd("ROLE").query_async(connection).await;
    let role = match answer {
        Ok(Value::Array(items)) => items.into_iter().next(),
        Ok(_) => None,
        Err(error) => return Err(replies::refused(&error)),
    };
    role.and_then(|role| redis::from_redis_value(role).ok())
        .ok_or_else(|| StoreError::Malformed("redis gave no role".to_owned()))
}

/// `info` with another address.
fn at(info: &ConnectionInfo, host: String, port: u16) -> ConnectionInfo {
    let addr = match info.addr() {
        ConnectionAddr::TcpTls { insecure, .. } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: None,
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.clone().set_addr(addr)
}

/// `info` with a password in place of that in the URL, if there is one.
fn with_password(info: &ConnectionInfo, password: Option<String>) -> ConnectionInfo {
    match password {
        Some(password) => {
            let settings = info.redis_settings().clone().set_password(password);
            info.clone().set_redis_settings(settings)
        }
        None => info.clone(),
    }
}

/// The password in a file; line breaks at its end are not part of it.
async fn password(file: Option<&Path>) -> Result<Option<String>, StoreError> {
    let Some(bytes) = contents(file).await? else {
        return Ok(None);
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(_) => Err(StoreError::Unavailable(format!(
            "the password in {} is not UTF-8",
            file.unwrap_or(Path::new("")).display()
        ))),
    }
}

/// The contents of a file, read where a file system that hangs holds up nothing else.
async fn contents(file: Option<&Path>) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(file) = file.map(Path::to_owned) else {
        return Ok(None);
    };
    let reading = spawn_blocking(move || read(&file).map_err(|error| unreadable(&file, &error)));
    match reading.await {
        Ok(Ok(bytes)) => Ok(Some(bytes)),
        Ok(Err(message)) => Err(StoreError::Unavailable(message)),
        Err(error) => Err(StoreError::Unavailable(error.to_string())),
    }
}

fn read(file: &PathBuf) -> io::Result<Vec<u8>> {
    std::fs::read(file)
}

fn unreadable(file: &Path, error: &io::Error) -> String {
    format!("{} cannot be read: {error}", file.display())
}
