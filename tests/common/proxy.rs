//! A TCP proxy that stands between a node and one of its servers and misbehaves on demand.
//!
//! It loses no bytes of its own accord: what it holds back arrives late, when the fault is over, as it does after a real
//! partition. Late entries and late answers are the interesting ones.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::wait::free_port;

/// Bytes read at once; a message of the bus fits.
const CHUNK: usize = 64 * 1024;

/// Chunks on their way in one direction. A slow network is not an endless buffer.
const CHUNKS: usize = 64;

/// What the proxy does to the connections through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Nothing.
    Passes,
    /// What the server says arrives this much later.
    Delays(Duration),
    /// Connections are made, and nothing passes in either direction.
    Swallows,
    /// What the node says does not arrive.
    LosesRequests,
    /// What the server says does not arrive.
    LosesAnswers,
    /// Connections are reset and new ones refused.
    Refuses,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToNode,
}

type Choice = Box<dyn FnMut(&[u8]) -> bool + Send>;

/// A proxy. It goes on when it is dropped and ends with the test process.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server: AtomicU16,
    network: watch::Sender<Network>,
    resets: watch::Sender<u64>,
    forgotten: AtomicU64,
    lose: Mutex<Option<Choice>>,
    lost: AtomicU64,
}

impl Proxy {
    /// A proxy in front of the server on this port of this machine.
    pub fn before(port: u16) -> Self {
        let shared = Arc::new(Shared {
            server: AtomicU16::new(port),
            network: watch::Sender::new(Network::Passes),
            resets: watch::Sender::new(0),
            forgotten: AtomicU64::new(0),
            lose: Mutex::new(None),
            lost: AtomicU64::new(0),
        });
        let port = free_port();
        // Bound before anybody is told the port.
        let listener = runtime().block_on_or_here(listen(port));
        runtime().0.spawn(Arc::clone(&shared).accept(port, listener));
        Self { port, shared }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on the network is like this, for connections that stand and for new ones.
    pub fn network(&self, network: Network) {
        self.shared.network.send_replace(network);
        if network == Network::Refuses {
            self.reset();
        }
    }

    /// Resets every connection that stands.
    pub fn reset(&self) {
        self.shared.resets.send_modify(|resets| *resets += 1);
    }

    /// From now on it stands before another server: the connections that stand are reset, new ones lead there.
    pub fn lead_to(&self, port: u16) {
        self.shared.server.store(port, Ordering::SeqCst);
        self.reset();
    }

    /// Nothing passes any more on the connections that stand, as when a firewall has forgotten them; new ones are fine.
    pub fn forget(&self) {
        self.shared.forgotten.fetch_add(1, Ordering::SeqCst);
    }

    /// Loses those pub/sub messages of Redis whose payload `choice` picks, and delivers everything else.
    pub fn lose_messages(&self, choice: impl FnMut(&[u8]) -> bool + Send + 'static) {
        *self.shared.lose.lock().expect("choice") = Some(Box::new(choice));
    }

    /// Delivers every message again.
    pub fn lose_nothing(&self) {
        *self.shared.lose.lock().expect("choice") = None;
    }

    /// Messages lost so far.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

/// A runtime of the proxies' own: a test that blocks must not hold up the network.
struct Own(Runtime);

fn runtime() -> &'static Own {
    static RUNTIME: OnceLock<Own> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Own(Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime for the proxies"))
    })
}

impl Own {
    /// Waits for something short, from inside another runtime too.
    fn block_on_or_here<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (done, outcome) = std::sync::mpsc::channel();
        self.0.spawn(async move { done.send(future.await) });
        outcome.recv().expect("the proxies' runtime answers")
    }
}

async fn listen(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.1", port)).await.expect("listen on the proxy's port")
}

impl Shared {
    async fn accept(self: Arc<Self>, port: u16, listener: TcpListener) {
        let mut network = self.network.subscribe();
        let mut listener = Some(listener);
        loop {
            if *network.borrow_and_update() == Network::Refuses {
                drop(listener.take());
                let _ = network.changed().await;
                continue;
            }
            if listener.is_none() {
                listener = Some(listen(port).await);
            }
            let Some(open) = &listener else { continue };
            tokio::select! {
                _ = network.changed() => {}
                accepted = open.accept() => if let Ok((stream, _)) = accepted {
                    tokio::spawn(Arc::clone(&self).carry(stream));
                },
            }
        }
    }

    async fn carry(self: Arc<Self>, mut node: TcpStream) {
        let mut resets = self.resets.subscribe();
        let born = self.forgotten.load(Ordering::SeqCst);
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", self.server.load(Ordering::SeqCst))).await else {
            let _ = node.set_zero_linger();
            return;
        };
        let _ = (node.set_nodelay(true), server.set_nodelay(true));
        let ended_well = {
            let (from_node, to_node) = node.split();
            let (from_server, to_server) = server.split();
            tokio::select! {
                _ = resets.changed() => false,
                both = async { tokio::try_join!(
                    self.pump(from_node, to_server, Direction::ToServer, born),
                    self.pump(from_server, to_node, Direction::ToNode, born),
                ) } => both.is_ok(),
            }
        };
        if !ended_well {
            let _ = (node.set_zero_linger(), server.set_zero_linger());
        }
    }

    async fn pump(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        direction: Direction,
        born: u64,
    ) -> std::io::Result<()> {
        let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
        let reading = async {
            let mut buffer = vec![0; CHUNK];
            loop {
                let read = from.read(&mut buffer).await?;
                if read == 0 || queue.send((Instant::now(), buffer[..read].to_vec())).await.is_err() {
                    drop(queue);
                    return Ok(());
                }
            }
        };
        let writing = async {
            while let Some((read_at, chunk)) = queued.recv().await {
                self.let_through(direction, born, read_at).await;
                let chunk = if direction == Direction::ToNode { self.without_lost(chunk) } else { chunk };
                to.write_all(&chunk).await?;
            }
            self.let_through(direction, born, Instant::now()).await;
            to.shutdown().await
        };
        tokio::try_join!(reading, writing).map(|_| ())
    }

    /// Waits as long as the network holds back what was read then.
    async fn let_through(&self, direction: Direction, born: u64, read_at: Instant) {
        let mut network = self.network.subscribe();
        loop {
            let now = *network.borrow_and_update();
            if self.forgotten.load(Ordering::SeqCst) != born {
                std::future::pending::<()>().await;
            }
            let due = match (now, direction) {
                (Network::Passes, _)
                | (Network::Delays(_) | Network::LosesAnswers, Direction::ToServer)
                | (Network::LosesRequests, Direction::ToNode) => return,
                (Network::Delays(delay), Direction::ToNode) => Some(read_at + delay),
                (Network::Swallows | Network::Refuses, _)
                | (Network::LosesRequests, Direction::ToServer)
                | (Network::LosesAnswers, Direction::ToNode) => None,
            };
            match due {
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => return,
                    _ = network.changed() => {}
                },
                None => {
                    let _ = network.changed().await;
                }
            }
        }
    }

    /// The chunk without the pub/sub messages that are to be lost. Messages are published one by one, so that a chunk
    /// begins with one or holds none.
    fn without_lost(&self, chunk: Vec<u8>) -> Vec<u8> {
        let mut lose = self.lose.lock().expect("choice");
        let Some(lose) = lose.as_mut() else { return chunk };
        let mut kept = Vec::with_capacity(chunk.len());
        let mut rest = &chunk[..];
        while let Some((payload, after)) = message(rest) {
            if lose(payload) {
                self.lost.fetch_add(1, Ordering::Relaxed);
            } else {
                kept.extend_from_slice(&rest[..rest.len() - after.len()]);
            }
            rest = after;
        }
        kept.extend_from_slice(rest);
        kept
    }
}

/// The payload of the pub/sub message at the start of `bytes`, and what follows it.
fn message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(b"*3\r\n").or_else(|| bytes.strip_prefix(b">3\r\n"))?;
    let (kind, rest) = bulk(rest)?;
    let (_channel, rest) = bulk(rest)?;
    let (payload, rest) = bulk(rest)?;
    (kind == b"message").then_some((payload, rest))
}

fn bulk(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(b"$")?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let length: usize = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    let body = &rest[end + 2..];
    (body.len() >= length + 2).then(|| (&body[..length], &body[length + 2..]))
}
