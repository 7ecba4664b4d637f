//! A crowd of sockets that costs little: in a process of its own, from source addresses of its own, with a WebSocket client
//! of a few lines that holds no buffer while it waits.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::process::raise_open_files;
use super::role::Player;

/// Handshakes under way at once, for each crowd.
const AT_ONCE: usize = 32;
/// Near ends of connections that one source address has, with some to spare.
const PER_SOURCE: usize = 8_000;
const CONNECT: &str = r#"{"id":1,"connect":{}}"#;

/// Microseconds since 1970: what all processes of one machine agree about.
pub fn now_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Sockets in another process.
pub struct Crowd {
    player: Player,
    sockets: usize,
}

/// How one socket of the crowd ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The socket's number in its crowd; its token is that of this number, modulo how many there are.
    pub socket: usize,
    /// The close frame's code; 1006 without one.
    pub code: u16,
    /// When it was read, in microseconds since 1970.
    pub at_micros: u64,
}

impl Crowd {
    /// Starts to open so many sockets to `authority`, from addresses in `127.0.<network>.0/24`, going round the tokens.
    /// Without tokens there is no `Authorization`. [`opened`](Self::opened) waits for them.
    pub fn start(authority: &str, sockets: usize, network: u8, tokens: &[String]) -> Self {
        let arguments = [authority.to_owned(), sockets.to_string(), network.to_string(), tokens.len().to_string()];
        let mut player = Player::start("crowd", &arguments);
        tokens.iter().for_each(|token| player.say(token));
        Self { player, sockets }
    }

    /// Waits until every socket is open and `connect` answered.
    pub fn opened(&mut self) {
        assert_eq!(self.player.hear(), "open");
    }

    /// Heartbeats answered so far.
    pub fn heartbeats(&mut self) -> u64 {
        self.player.say("heartbeats");
        self.player.hear().parse().expect("a number")
    }

    /// The ends of those that have ended so far.
    pub fn ends(&mut self) -> Vec<End> {
        self.player.say("ends");
        let line = self.player.hear();
        let ends = line.split_whitespace().map(|end| {
            let mut parts = end.split('@').map(|part| part.parse::<u64>().expect("a number"));
            let mut part = || parts.next().expect("three numbers");
            End { socket: part() as usize, code: part() as u16, at_micros: part() }
        });
        ends.collect()
    }

    /// How many sockets there were in the beginning.
    pub fn sockets(&self) -> usize {
        self.sockets
    }

    /// Waits until so many have ended; fails when they do not within a minute.
    pub fn wait_for_ends(&mut self, count: usize) -> Vec<End> {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let ends = self.ends();
            if ends.len() >= count {
                return ends;
            }
            assert!(std::time::Instant::now() < deadline, "{} of {count} sockets were closed", ends.len());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[derive(Default)]
struct Seen {
    heartbeats: AtomicU64,
    ends: Mutex<Vec<End>>,
}

/// The role: opens the sockets, then answers heartbeats and questions for as long as somebody holds its input.
pub fn play(arguments: &[String]) {
    raise_open_files();
    let [authority, sockets, network, tokens] = arguments else { panic!("four arguments") };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let (sockets, network, tokens) = (number(sockets), number(network) as u8, number(tokens));
    let mut input = std::io::stdin().lines();
    let tokens: Vec<String> = input.by_ref().take(tokens).map(|line| line.expect("a token")).collect();
    let seen: &'static Seen = Box::leak(Box::default());
    let authority: SocketAddr = authority.parse().expect("an address");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let tokens = Rc::new(tokens);
            let opening = stream::iter(0..sockets).map(|index| {
                let tokens = Rc::clone(&tokens);
                async move {
                    let source = Ipv4Addr::new(127, 0, network, 1 + (index / PER_SOURCE) as u8);
                    let token = (!tokens.is_empty()).then(|| tokens[index % tokens.len()].as_str());
                    (index, open(authority, source.into(), "/ws", token).await)
                }
            });
            let opened = opening.buffer_unordered(AT_ONCE);
            opened.for_each(async |(index, socket)| drop(tokio::task::spawn_local(stay(index, socket, seen)))).await;
            say("open");
            std::future::pending::<()>().await;
        });
    });
    for line in input {
        match line.expect("a line").as_str() {
            "heartbeats" => say(&seen.heartbeats.load(Ordering::Relaxed).to_string()),
            _ => {
                let ends = seen.ends.lock().expect("the ends");
                let text: Vec<_> =
                    ends.iter().map(|end| format!("{}@{}@{}", end.socket, end.code, end.at_micros)).collect();
                say(&text.join(" "));
            }
        }
    }
    // The sockets end with the process.
    std::process::exit(0);
}

/// Writes a line to whoever measures.
pub fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("write to whoever measures");
}

/// Opens a socket and waits for the answer to `connect`. A bare server's echo of it is as good.
pub async fn open(authority: SocketAddr, source: IpAddr, path: &str, token: Option<&str>) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(source, 0)).expect("a source address");
    let mut stream = socket.connect(authority).await.expect("connect");
    stream.set_nodelay(true).expect("set TCP_NODELAY");
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{bearer}\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("send a handshake");
    let (mut head, mut buffer) = (Vec::new(), [0; 512]);
    while !head.ends_with(b"\r\n\r\n") {
        // Nothing comes behind the head before `connect` is sent.
        let read = stream.read(&mut buffer).await.expect("read the answer");
        assert!(read > 0, "hung up within {:?}", String::from_utf8_lossy(&head));
        head.extend_from_slice(&buffer[..read]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "refused: {:?}", String::from_utf8_lossy(&head));
    send(&mut stream, CONNECT).await.expect("send connect");
    let read = stream.read(&mut buffer).await.expect("read the reply");
    let reply = String::from_utf8_lossy(&buffer[..read]).into_owned();
    assert!(reply.contains("\"connect\""), "connect was refused: {reply:?}");
    stream
}

/// Sends a text frame, masked with zeros.
pub async fn send(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    assert!(text.len() < 126, "a short text");
    let mut frame = Vec::with_capacity(6 + text.len());
    frame.extend([0x81, 0x80 | text.len() as u8, 0, 0, 0, 0]);
    frame.extend(text.as_bytes());
    stream.write_all(&frame).await
}

async fn stay(socket: usize, mut stream: TcpStream, seen: &'static Seen) {
    let code = life(&mut stream, seen).await.unwrap_or(1006);
    seen.ends.lock().expect("the ends").push(End { socket, code, at_micros: now_micros() });
    // The answer to the close frame, so that the server need not linger.
    let _ = stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, (code >> 8) as u8, code as u8]).await;
}

/// Answers heartbeats until a close frame comes, whose code it says. Frames of the gateway are short: they come whole.
async fn life(stream: &mut TcpStream, seen: &Seen) -> std::io::Result<u16> {
    loop {
        stream.readable().await?;
        let mut buffer = [0; 512];
        let read = match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(1006),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..read];
        while let [head, length, payload @ ..] = rest {
            let length = usize::from(length & 0x7f);
            if length >= 126 || payload.len() < length {
                // A push longer than this client cares for.
                break;
            }
            let (payload, behind) = payload.split_at(length);
            match (head & 0x0f, payload) {
                (1, b"{}") => {
                    send(stream, "{}").await?;
                    seen.heartbeats.fetch_add(1, Ordering::Relaxed);
                }
                (8, [high, low, ..]) => return Ok(u16::from_be_bytes([*high, *low])),
                (8, _) => return Ok(1005),
                (9, _) => stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await?,
                _ => {}
            }
            rest = behind;
        }
    }
}
