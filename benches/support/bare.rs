//! The floor for mass drops: a bare tokio-tungstenite server that echoes, and that closes all its sockets in one go when it
//! is told to. Sockets of the path `/stay` it keeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

use super::crowd::say;
use super::process::raise_open_files;

const READ_BUFFER: usize = 512;

/// The role. Says its address; closes at each line it hears.
pub fn play() {
    raise_open_files();
    let (closing, closed) = watch::channel(0_u32);
    std::thread::spawn(move || {
        for _ in std::io::stdin().lines() {
            closing.send_modify(|times| *times += 1);
        }
        std::process::exit(0);
    });
    tokio::runtime::Runtime::new().expect("a runtime").block_on(accept(closed));
}

async fn accept(closed: watch::Receiver<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    say(&listener.local_addr().expect("an address").to_string());
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        let mut closed = closed.clone();
        closed.mark_unchanged();
        tokio::spawn(serve(stream, closed));
    }
}

async fn serve(stream: TcpStream, mut closed: watch::Receiver<u32>) {
    let _ = stream.set_nodelay(true);
    let stays = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&stays);
    #[allow(clippy::result_large_err, reason = "the library's signature")]
    let note = move |request: &Request, response: Response| {
        noted.store(request.uri().path() == "/stay", Ordering::Relaxed);
        Ok(response)
    };
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async_with_config(stream, note, Some(config)).await else {
        return;
    };
    let stays = stays.load(Ordering::Relaxed);
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(message)) if message.is_text() => if socket.send(message).await.is_err() { return },
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            changed = closed.changed(), if !stays => {
                if changed.is_ok() {
                    let frame = CloseFrame { code: 4501.into(), reason: "logged out everywhere".into() };
                    let _ = socket.send(Message::Close(Some(frame))).await;
                }
                while let Some(Ok(_)) = socket.next().await {}
                return;
            }
        }
    }
}
