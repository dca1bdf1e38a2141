//! A connection to something, with a counter on the way.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

/// Passes bytes on, and counts the connections.
pub struct Forwarder {
    pub addr: SocketAddr,
    pub connections: Arc<AtomicUsize>,
}

impl Forwarder {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let forwarder = Self {
            addr: listener.local_addr().unwrap(),
            connections: Arc::default(),
        };
        let connections = Arc::clone(&forwarder.connections);
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(to).await.unwrap();
                    // Ends when either side closes; an error is an end too.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        forwarder
    }
}
