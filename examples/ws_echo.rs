//! An echo server on the gateway's own frames: the same code and settings, no credentials, text and binary up to 16 MiB.
//!
//! For the Autobahn test suite, whose fuzzing client knows what RFC 6455 demands of a server: `scripts/autobahn`.

use std::io;
use std::time::Duration;

use portcullis::server;
use portcullis::socket::handshake::Offer;
use portcullis::socket::head;
use portcullis::socket::wire::{Incoming, Limits, Message, Outgoing, Wire};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMITS: Limits = Limits { message_bytes: 16 << 20, binary: true };
const HEAD_WITHIN: Duration = Duration::from_secs(10);
const HEAD_BYTES: usize = 16 * 1024;

#[tokio::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let address = address.parse().map_err(io::Error::other)?;
    let listener = server::listen(address)?;
    println!("echo on ws://{address}");
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Ok(Some(wire)) = timeout(HEAD_WITHIN, open(stream)).await {
                echo(wire).await;
            }
        });
    }
}

/// The opening handshake; `None` for whoever does not keep to it.
async fn open(mut stream: TcpStream) -> Option<Wire> {
    let mut bytes = Vec::new();
    while bytes.len() < HEAD_BYTES {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if let Some((parts, size)) = head::read(&bytes) {
            let answer = Offer::read(&parts).ok()?.accept();
            return Some(Wire::answering(stream, &head::write(&answer), &bytes[size..], LIMITS));
        }
    }
    None
}

async fn echo(mut wire: Wire) {
    loop {
        if wire.flush().await.is_err() {
            return;
        }
        match wire.next().await {
            Incoming::Message(Message::Text(text)) => wire.queue(Outgoing::Text(&text)),
            Incoming::Message(Message::Binary(data)) => wire.queue(Outgoing::Binary(&data)),
            Incoming::Message(Message::Ping(payload)) => wire.queue(Outgoing::Pong(&payload)),
            Incoming::Message(Message::Pong) => {}
            Incoming::Message(Message::Close(code)) => return wire.answer_close(code).await,
            Incoming::Failed(Some(close)) => {
                if wire.close(close).await {
                    wire.hang_up().await;
                }
                return;
            }
            Incoming::Failed(None) => return,
        }
    }
}
