//! The file of a Unix socket: stale ones, permissions, and removal.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::addr::{BindError, ListenAddr};

/// The permissions of a Unix socket. Proxies run as other users than tollgate, and connecting needs
/// write permission; to restrict access, put the socket in a directory that only the proxy's group
/// may enter.
const UNIX_SOCKET_MODE: u32 = 0o666;

/// How long a listener on an existing socket has to answer before it counts as alive but busy.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Binds and listens with room for `backlog` connections not yet accepted.
pub(super) fn bind(path: &Path, backlog: u32) -> io::Result<(UnixListener, SocketFile)> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let file = SocketFile::new(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(UNIX_SOCKET_MODE))?;
    Ok((socket.listen(backlog)?, file))
}

/// Removes a socket file that no process listens on.
pub(super) async fn clear_stale(addr: &ListenAddr, path: &Path) -> Result<(), BindError> {
    let in_use = || BindError::InUse { addr: addr.clone() };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::new(addr, error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(BindError::NotASocket { addr: addr.clone() });
        }
        Ok(_) => {}
    }
    match tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| BindError::new(addr, error))
        }
        // Gone in the meantime.
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use()),
        Ok(Err(error)) => Err(BindError::new(addr, error)),
        Ok(Ok(_)) | Err(_) => Err(in_use()),
    }
}

/// The file of our Unix socket. It is removed on drop if it is still ours and not a successor's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // A file that stays behind is cleared by the next bind.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Listener;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sock");
        let addr = ListenAddr::Unix(path.clone());
        // A std listener leaves its file behind, as a killed process does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());

        let listener = Listener::bind(&addr).await.unwrap();
        assert_eq!(listener.local_addr().unwrap(), addr);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, UNIX_SOCKET_MODE);

        let error = Listener::bind(&addr).await.unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        assert!(path.exists(), "the live socket was removed");

        drop(listener);
        assert!(!path.exists(), "the socket file stayed behind");
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let error = Listener::bind(&ListenAddr::Unix(path.clone()))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("not a socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"data");

        let missing = ListenAddr::Unix(dir.path().join("no/such/t.sock"));
        let error = Listener::bind(&missing).await.unwrap_err().to_string();
        assert!(error.contains("directory does not exist"), "{error}");
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sock");
        let old = Listener::bind(&ListenAddr::Unix(path.clone()))
            .await
            .unwrap();
        // The successor binds beside it and renames into place, so that there is always a socket.
        let beside = dir.path().join("t.sock.new");
        let new = std::os::unix::net::UnixListener::bind(&beside).unwrap();
        std::fs::rename(&beside, &path).unwrap();
        drop(old);
        assert!(path.exists(), "the successor's socket was removed");
        drop(new);
    }
}
