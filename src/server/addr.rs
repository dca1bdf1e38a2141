//! Addresses to listen on, and why one cannot be listened on.

use std::{fmt, io, net::SocketAddr, path::PathBuf, str::FromStr};

/// An address to listen on: `127.0.0.1:8081`, `[::1]:8081`, `localhost:8081` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// An IP address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// The path of a Unix socket, which is created on bind and removed when the listener goes.
    Unix(PathBuf),
}

/// Why a text is not a [`ListenAddr`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseListenAddrError {
    /// `unix:` with no path behind it.
    #[error("`unix:` needs a path, such as unix:/run/tollgate/check.sock")]
    NoPath,
    /// No port behind the address.
    #[error(
        "`{0}` has no port, write an address such as 127.0.0.1:8081, 0.0.0.0:8081 or unix:/path"
    )]
    NoPort(String),
    /// A host name. It is not looked up: the result could be another machine's address, or several.
    #[error(
        "`{0}` is not an IP address, write one such as 127.0.0.1:8081, or 0.0.0.0:8081 for all interfaces"
    )]
    NotAnIp(String),
    /// The port is not a number from 0 to 65535.
    #[error("`{0}` is not a port, it must be a number from 0 to 65535")]
    BadPort(String),
}

impl ListenAddr {
    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(addr) => addr.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for ListenAddr {
    type Err = ParseListenAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(ParseListenAddrError::NoPath);
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Ok(addr) = text.parse() {
            return Ok(Self::Tcp(addr));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(ParseListenAddrError::NoPort(text.to_owned()));
        };
        let port: u16 = port
            .parse()
            .map_err(|_| ParseListenAddrError::BadPort(port.to_owned()))?;
        if host == "localhost" {
            // The proxies' examples all say 127.0.0.1, so the name means that, whatever /etc/hosts
            // says first.
            return Ok(Self::Tcp(SocketAddr::from(([127, 0, 0, 1], port))));
        }
        Err(ParseListenAddrError::NotAnIp(text.to_owned()))
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why an address cannot be listened on, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("cannot listen on {addr}: the address is in use, is another tollgate running? choose another with --{flag}", flag = flags(.addr))]
    InUse {
        /// The address asked for.
        addr: ListenAddr,
    },
    /// The socket's path is taken by another kind of file, which must not be deleted.
    #[error(
        "cannot listen on {addr}: the file exists and is not a socket, remove it or choose another path"
    )]
    NotASocket {
        /// The address asked for.
        addr: ListenAddr,
    },
    /// The machine does not have this address.
    #[error(
        "cannot listen on {addr}: this machine has no such address, use 0.0.0.0 for all interfaces"
    )]
    NotOurs {
        /// The address asked for.
        addr: ListenAddr,
    },
    /// Not allowed: a port below 1024, or a directory that we may not write to.
    #[error("cannot listen on {addr}: permission denied, {hint}", hint = permission_hint(.addr))]
    Denied {
        /// The address asked for.
        addr: ListenAddr,
    },
    /// Any other error of the kernel.
    #[error("cannot listen on {addr}: {source}")]
    Other {
        /// The address asked for.
        addr: ListenAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

fn flags(addr: &ListenAddr) -> &'static str {
    match addr {
        // Either the check port or the admin port can be taken, and only the caller knows which.
        ListenAddr::Tcp(_) => "listen or --admin",
        ListenAddr::Unix(_) => "listen",
    }
}

fn permission_hint(addr: &ListenAddr) -> &'static str {
    match addr {
        ListenAddr::Tcp(_) => "ports below 1024 need a privilege; choose a higher one",
        ListenAddr::Unix(_) => "tollgate's user must be able to write to the socket's directory",
    }
}

impl BindError {
    pub(super) fn new(addr: &ListenAddr, source: io::Error) -> Self {
        let addr = addr.clone();
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { addr },
            io::ErrorKind::AddrNotAvailable => Self::NotOurs { addr },
            io::ErrorKind::PermissionDenied => Self::Denied { addr },
            io::ErrorKind::NotFound => {
                let source = io::Error::new(
                    source.kind(),
                    "the socket's directory does not exist, create it first",
                );
                Self::Other { addr, source }
            }
            _ => Self::Other { addr, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ListenAddr, String> {
        text.parse()
            .map_err(|e: ParseListenAddrError| e.to_string())
    }

    #[test]
    fn addresses_are_read_and_written_back() {
        for text in [
            "127.0.0.1:8081",
            "[::1]:8081",
            "unix:/run/x.sock",
            "0.0.0.0:0",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("localhost:80").unwrap().to_string(), "127.0.0.1:80");
    }

    #[test]
    fn an_invalid_address_is_reported_with_a_hint() {
        for (text, needle) in [
            ("", "no port"),
            ("8081", "`8081` has no port"),
            ("127.0.0.1", "has no port"),
            (":8081", "0.0.0.0:8081"),
            ("tollgate:8081", "not an IP address"),
            ("127.0.0.1:http", "`http` is not a port"),
            ("127.0.0.1:65536", "`65536` is not a port"),
            ("unix:", "needs a path"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(needle), "{text}: {error}");
        }
    }
}
