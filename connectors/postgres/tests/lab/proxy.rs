//! A wire that can be cut: between a sink and its server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What happens to the next bytes that the client sends.
const PASS: u8 = 0;
/// They reach the server; its answer is lost and the connection with it.
const LOSE_ANSWER: u8 = 1;
/// They are lost and the connection with them.
const LOSE_REQUEST: u8 = 2;
/// Nothing is passed on any more and nobody is told.
const SILENCE: u8 = 3;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    fault: Arc<AtomicU8>,
    tasks: JoinSet<()>,
}

impl Proxy {
    /// A proxy to this server.
    pub(crate) async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let fault = Arc::new(AtomicU8::new(PASS));
        let shared = Arc::clone(&fault);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pairs = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.expect("the server");
                pairs.spawn(pass(client, server, Arc::clone(&shared)));
            }
        });
        Self { port, fault, tasks }
    }

    pub(crate) fn lose_answer(&self) {
        self.fault.store(LOSE_ANSWER, Ordering::SeqCst);
    }

    pub(crate) fn lose_request(&self) {
        self.fault.store(LOSE_REQUEST, Ordering::SeqCst);
    }

    pub(crate) fn silence(&self) {
        self.fault.store(SILENCE, Ordering::SeqCst);
    }

    /// Whether the fault was met; it happens once.
    pub(crate) fn was_hit(&self) -> bool {
        self.fault.load(Ordering::SeqCst) == PASS
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, fault: Arc<AtomicU8>) {
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut deaf = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(bytes @ 1..) = read else { return };
                match fault.load(Ordering::SeqCst) {
                    LOSE_REQUEST => {
                        fault.store(PASS, Ordering::SeqCst);
                        return;
                    }
                    LOSE_ANSWER => {
                        server.write_all(&up[..bytes]).await.expect("the server reads");
                        // The server has done its work when it answers.
                        let _ = server.read(&mut down).await;
                        fault.store(PASS, Ordering::SeqCst);
                        return;
                    }
                    SILENCE => {
                        fault.store(PASS, Ordering::SeqCst);
                        deaf = true;
                    }
                    _ if deaf => {}
                    _ => server.write_all(&up[..bytes]).await.expect("the server reads"),
                }
            }
            read = server.read(&mut down) => {
                let Ok(bytes @ 1..) = read else { return };
                if !deaf && client.write_all(&down[..bytes]).await.is_err() {
                    return;
                }
            }
        }
    }
}
