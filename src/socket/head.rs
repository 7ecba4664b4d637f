//! The heads of HTTP/1.1 messages, as far as an opening handshake needs them: the short way past the HTTP server for
//! connections whose first bytes are a whole handshake. What is not plainly one is left to the server. No I/O.

use axum::http::request::Parts;
use axum::http::response::Response;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};

/// More headers than any browser or proxy sends with a handshake.
const HEADERS: usize = 64;

/// Whether this may be the beginning of a request for one of these paths. A look at a few bytes.
#[must_use]
pub fn asks_for(bytes: &[u8], paths: &[&str]) -> bool {
    let Some(target) = bytes.strip_prefix(b"GET ") else { return false };
    paths.iter().any(|path| {
        target.strip_prefix(path.as_bytes()).is_some_and(|rest| rest.starts_with(b" ") || rest.starts_with(b"?"))
    })
}

/// Reads a request without a body, and says how many bytes its head has. `None` for everything else: a head that is not
/// complete or not well-formed, one with a body, another version.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<(Parts, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(size) = head.parse(bytes).ok()? else { return None };
    if head.version != Some(1) {
        return None;
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method?.as_bytes()).ok()?;
    *request.uri_mut() = Uri::try_from(head.path?).ok()?;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = read_headers(head.headers)?;
    let bodiless = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::EXPECT];
    let has_body = bodiless.iter().any(|name| request.headers().contains_key(name));
    (!has_body).then(|| (request.into_parts().0, size))
}

fn read_headers(read: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(read.len());
    for line in read {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    Some(headers)
}

/// Writes the head of an answer that has no body.
#[must_use]
pub fn write<B>(response: &Response<B>) -> Vec<u8> {
    let status = response.status();
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(b"HTTP/1.1 ");
    bytes.extend_from_slice(status.as_str().as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    bytes.extend_from_slice(b"\r\n");
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &[u8] = b"GET /ws?format=json HTTP/1.1\r\nHost: x\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n";

    #[test]
    fn a_whole_head_is_read_and_what_comes_behind_it_is_left() {
        let (parts, size) = read(&[HEAD, b"\x81\x80"].concat()).expect("a head");
        assert_eq!((parts.method, parts.uri.path(), size), (Method::GET, "/ws", HEAD.len()));
        assert_eq!(parts.headers.get_all("cookie").iter().count(), 2);
        for cut in 0..HEAD.len() {
            assert!(read(&HEAD[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_plain_handshake_is_left_to_the_server() {
        for head in [
            "GET /ws HTTP/1.0\r\n\r\n",
            "GET /ws HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
            "GET /ws HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /ws HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET /ws HTTP/1.1\r\nbad header: x\r\n\r\n",
            "GET /ws HTTP/1.1\r\n folded: x\r\n\r\n",
            "GET  /ws HTTP/1.1\r\n\r\n",
        ] {
            assert!(read(head.as_bytes()).is_none(), "{head:?}");
        }
        let many = format!("GET /ws HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS + 1));
        assert!(read(many.as_bytes()).is_none());
    }

    #[test]
    fn only_these_paths_are_asked_for() {
        let paths = ["/ws", "/connection/websocket"];
        for good in ["GET /ws HTTP/1.1", "GET /ws?a=b HTTP/1.1", "GET /connection/websocket "] {
            assert!(asks_for(good.as_bytes(), &paths), "{good}");
        }
        for other in ["GET /wsx ", "GET /", "GET /ws/", "GET /ws", "POST /ws ", "get /ws ", ""] {
            assert!(!asks_for(other.as_bytes(), &paths), "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..60) {
            let _ = read(&bytes);
            let _ = read(&[&HEAD[..cut], &bytes, b"\r\n\r\n"].concat());
        }
    }
}
