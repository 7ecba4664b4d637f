//! A raw socket client that speaks the wire protocol by hand.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::client::{Answer, Node};
use super::wait::DEADLINE;

/// A handshake in the making.
pub struct Handshake<'a> {
    node: &'a Node,
    path: String,
    headers: Vec<(String, String)>,
}

impl Node {
    /// A handshake without any credential.
    pub fn socket(&self) -> Handshake<'_> {
        Handshake { node: self, path: "/ws".to_owned(), headers: Vec::new() }
    }

    /// A socket that has shown this token in `connect`.
    pub async fn connect(&self, token: &str) -> Socket {
        let mut socket = self.socket().open().await;
        let reply = socket.connect(token).await;
        assert!(reply["connect"]["client"].is_string(), "connect was refused: {reply}");
        socket
    }
}

impl Handshake<'_> {
    /// On another path, or with a query.
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With an access token in the Authorization header.
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Offering these subprotocols.
    pub fn subprotocols(self, offered: &str) -> Self {
        self.header("sec-websocket-protocol", offered)
    }

    /// From a page of this origin.
    pub fn origin(self, origin: &str) -> Self {
        self.header("origin", origin)
    }

    /// With a ticket.
    pub fn ticket(self, ticket: &str) -> Self {
        self.path(&format!("/ws?ticket={ticket}"))
    }

    /// With the session cookie of plain http.
    pub fn cookie(self, session_id: &str) -> Self {
        self.header("cookie", &format!("portcullis_session={session_id}"))
    }

    /// Opens the socket; a refusal fails the test.
    pub async fn open(self) -> Socket {
        self.try_open().await.unwrap_or_else(|refusal| panic!("the handshake failed: {refusal}"))
    }

    /// Opens the socket, or says why not.
    pub async fn try_open(self) -> Result<Socket, String> {
        let url = format!("ws://{}{}", self.node.authority(), self.path);
        let mut request = url.as_str().into_client_request().expect("a request");
        for (name, value) in &self.headers {
            let name = HeaderName::try_from(name.as_str()).expect("a header name");
            request.headers_mut().append(name, HeaderValue::try_from(value.as_str()).expect("a header value"));
        }
        let opening = async {
            let stream = TcpStream::connect(self.node.authority()).await.map_err(|error| error.to_string())?;
            tokio_tungstenite::client_async(request, stream).await.map_err(|refusal| format!("{refusal:?}"))
        };
        let opened = tokio::time::timeout(DEADLINE, opening).await;
        let (stream, response) = opened.map_err(|_| "no handshake in time".to_owned())??;
        let selected = response.headers().get("sec-websocket-protocol");
        Ok(Socket {
            stream,
            subprotocol: selected.map(|value| value.to_str().expect("a plain header").to_owned()),
            inbox: VecDeque::new(),
            pushes: VecDeque::new(),
            replies: Vec::new(),
            next_id: 1,
            answer_pings: true,
        })
    }

    /// Tries the handshake as plain HTTP, so that a refusal can be read whole. The status 101 is an answer too.
    pub async fn attempt(self) -> Answer {
        let mut call = self.node.get(&self.path);
        call = call.header("connection", "Upgrade").header("upgrade", "websocket");
        call = call.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        for (name, value) in &self.headers {
            call = call.header(name, value);
        }
        // After a 101 the body is the socket's, which need not say anything.
        call.send_head().await
    }
}

/// What a socket hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An answer to a command.
    Reply(Value),
    /// Something the server says by itself.
    Push(Value),
    /// The server's `{}`.
    Ping,
    /// A ping frame of RFC 6455, which is answered below us.
    FramePing,
    /// The end. 1006 when there was no close frame.
    Closed(u16, String),
}

/// An open socket.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// What the server selected.
    pub subprotocol: Option<String>,
    /// Whether `{}` is answered while waiting for something else.
    pub answer_pings: bool,
    inbox: VecDeque<Value>,
    pushes: VecDeque<Value>,
    replies: Vec<Value>,
    next_id: u64,
}

impl Socket {
    /// Sends `connect` with this token and waits for the reply.
    pub async fn connect(&mut self, token: &str) -> Value {
        self.command(json!({"connect": {"token": token}})).await
    }

    /// Sends a command under the next id and waits for its reply.
    pub async fn command(&mut self, command: Value) -> Value {
        let id = self.send_command(command).await;
        self.reply(id).await
    }

    /// Sends an rpc and waits for its reply.
    pub async fn rpc(&mut self, method: &str, data: Value) -> Value {
        self.command(json!({"rpc": {"method": method, "data": data}})).await
    }

    /// Sends a command under the next id, which it says.
    pub async fn send_command(&mut self, mut command: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = id.into();
        self.send(&command.to_string()).await;
        id
    }

    /// Sends a text frame.
    pub async fn send(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// Sends a binary frame.
    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.send_message(Message::binary(bytes.to_vec())).await;
    }

    /// Sends a text frame whose bytes need not be text.
    pub async fn send_as_text(&mut self, bytes: &[u8]) {
        self.send_frame(OpCode::Data(Data::Text), bytes).await;
    }

    /// Sends a frame with any opcode.
    pub async fn send_frame(&mut self, opcode: OpCode, bytes: &[u8]) {
        let frame = Frame::message(bytes.to_vec(), opcode, true);
        self.send_message(Message::Frame(frame)).await;
    }

    async fn send_message(&mut self, message: Message) {
        // A socket that is closing cannot be written to; what it says last is read afterwards and judged there.
        let _ = self.stream.send(message).await;
    }

    /// The next thing it hears.
    pub async fn next(&mut self) -> Event {
        self.next_by(Instant::now() + DEADLINE).await.expect("the socket said nothing")
    }

    /// The next thing it hears, none when it says nothing until then.
    pub async fn next_by(&mut self, deadline: Instant) -> Option<Event> {
        loop {
            if let Some(object) = self.inbox.pop_front() {
                return Some(self.classify(object).await);
            }
            match timeout_at(deadline, self.stream.next()).await.ok()? {
                Some(Ok(Message::Text(text))) => {
                    assert!(!text.is_empty(), "the server sent an empty frame");
                    for line in text.as_str().split('\n') {
                        let object = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line:?}"));
                        self.inbox.push_back(object);
                    }
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Some(Event::Closed(frame.code.into(), frame.reason.to_string()));
                }
                Some(Ok(Message::Close(None))) => return Some(Event::Closed(1005, String::new())),
                Some(Ok(Message::Binary(_))) => panic!("the server sent a binary frame"),
                Some(Ok(Message::Ping(_))) => return Some(Event::FramePing),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Some(Event::Closed(1006, error.to_string())),
                None => return Some(Event::Closed(1006, "no close frame".to_owned())),
            }
        }
    }

    async fn classify(&mut self, object: Value) -> Event {
        if object == json!({}) {
            if self.answer_pings {
                self.send("{}").await;
            }
            Event::Ping
        } else if object.get("push").is_some() {
            assert!(object.get("id").is_none(), "a push with an id: {object}");
            Event::Push(object["push"].clone())
        } else {
            Event::Reply(object)
        }
    }

    /// Waits for the reply to this command; keeps the pushes and other replies that come before it.
    pub async fn reply(&mut self, id: u64) -> Value {
        if let Some(early) = self.replies.iter().position(|reply| reply["id"] == id) {
            return self.replies.remove(early);
        }
        loop {
            match self.next().await {
                Event::Reply(reply) if reply["id"] == id => return reply,
                Event::Reply(reply) => self.replies.push(reply),
                Event::Push(push) => self.pushes.push_back(push),
                Event::Ping | Event::FramePing => {}
                Event::Closed(code, reason) => {
                    panic!("closed with {code} {reason:?} instead of reply {id}")
                }
            }
        }
    }

    /// Waits for the next push.
    pub async fn next_push(&mut self) -> Value {
        if let Some(push) = self.pushes.pop_front() {
            return push;
        }
        loop {
            match self.next().await {
                Event::Push(push) => return push,
                Event::Ping | Event::FramePing => {}
                other => panic!("waited for a push: {other:?}"),
            }
        }
    }

    /// Waits for the server's next heartbeat.
    pub async fn next_ping(&mut self) {
        loop {
            match self.next().await {
                Event::Ping => return,
                Event::Push(push) => self.pushes.push_back(push),
                Event::FramePing => {}
                other => panic!("waited for a heartbeat: {other:?}"),
            }
        }
    }

    /// Waits for the end. Says its code and reason and the disconnect push before it, if there was one.
    pub async fn closed(&mut self) -> (u16, String, Option<Value>) {
        self.closed_within(DEADLINE).await
    }

    /// The same with another limit.
    pub async fn closed_within(&mut self, limit: Duration) -> (u16, String, Option<Value>) {
        let deadline = Instant::now() + limit;
        let mut goodbye = self.pushes.iter().find_map(|push| push.get("disconnect").cloned());
        loop {
            match self.next_by(deadline).await.expect("the socket was not closed") {
                Event::Closed(code, reason) => return (code, reason, goodbye),
                Event::Push(push) => goodbye = goodbye.or_else(|| push.get("disconnect").cloned()),
                Event::Reply(_) | Event::Ping | Event::FramePing => {}
            }
        }
    }

    /// Waits for a close frame with this code and reason that comes alone, without a push.
    pub async fn expect_close(&mut self, code: u16, reason: &str) {
        let (closed, said, goodbye) = self.closed().await;
        assert_eq!((closed, said.as_str()), (code, reason));
        assert_eq!(goodbye, None, "{code} goes without a push");
    }

    /// Waits for a close frame with this code, whatever its reason says; for the codes of RFC 6455.
    pub async fn expect_close_code(&mut self, code: u16) {
        let (closed, said, _) = self.closed().await;
        assert_eq!(closed, code, "{said}");
    }

    /// Waits for a forced disconnect: the push, and the close frame with the same code and reason.
    pub async fn expect_forced(&mut self, code: u16, reason: &str) {
        let (closed, said, goodbye) = self.closed().await;
        assert_eq!((closed, said.as_str()), (code, reason));
        let expected = json!({"code": code, "reason": reason, "reconnect": false});
        assert_eq!(goodbye, Some(expected), "{code} is announced by a push");
    }

    /// Fails unless the socket, admitted in the handshake, is this user's. Sends `connect` without a token.
    pub async fn expect_admitted(&mut self, user_id: &str) {
        let reply = self.command(json!({"connect": {}})).await;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        assert_eq!(self.rpc("auth.me", json!({})).await["rpc"]["data"]["id"], user_id);
    }

    /// Fails unless the socket still answers.
    pub async fn expect_open(&mut self) {
        let id = self.send_command(json!({"ping": {}})).await;
        assert_eq!(self.reply(id).await, json!({"id": id, "ping": {}}));
    }

    /// Fails unless the command was answered with this error.
    #[track_caller]
    pub fn is_error(reply: &Value, code: u16) {
        assert_eq!(reply["error"]["code"], code, "{reply}");
        assert!(reply["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{reply}");
        let temporary = reply["error"]["temporary"].as_bool().unwrap_or(false);
        assert_eq!(temporary, [100, 111].contains(&code), "{reply}");
    }
}
