//! One request to a receiver: HTTP/1.1, over TLS unless it is this machine. Bounded in everything, without redirects and
//! without a proxy: what the settings name is what is spoken to.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use url::Url;

/// Speaks to receivers.
pub(super) struct Poster {
    tls: TlsConnector,
    limit: Duration,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Poster {
    /// Believes the certificates that this system believes (`SSL_CERT_FILE` is heard); without any, those of the web.
    pub fn new(limit: Duration) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("failed to set TLS up")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), limit })
    }

    /// Sends a body; good is 2xx. The error is for the operator and holds nothing of the URL.
    pub async fn post(&self, url: &Url, headers: &[(&str, &str)], body: String) -> anyhow::Result<()> {
        let asked = tokio::time::timeout(self.limit, self.exchange(url, headers, body)).await;
        let status = asked.map_err(|_| anyhow!("no answer in time"))??;
        ensure!(status.is_success(), "answered {}", status.as_u16());
        Ok(())
    }

    async fn exchange(&self, url: &Url, headers: &[(&str, &str)], body: String) -> anyhow::Result<StatusCode> {
        let host = url.host_str().context("there is no host")?;
        let port = url.port_or_known_default().unwrap_or(443);
        let stream = self.connect(url.scheme(), host.trim_matches(['[', ']']), port).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let mut request = Request::post(path).header(header::HOST, authority).header(header::CONNECTION, "close");
        if let Some(credentials) = basic(url) {
            request = request.header(header::AUTHORIZATION, credentials);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // It ends with the exchange; its failures reach us through the sender.
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request.body(Body::from(body))?).await;
        connection.abort();
        Ok(answer.context("the exchange failed")?.status())
    }

    async fn connect(&self, scheme: &str, host: &str, port: u16) -> anyhow::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((host, port)).await.context("failed to connect")?;
        stream.set_nodelay(true)?;
        if scheme == "http" {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.to_owned()).context("no name for a certificate")?;
        Ok(Box::new(self.tls.connect(name, stream).await.context("failed to agree on TLS")?))
    }
}

/// The user and password of the URL (RFC 7617).
fn basic(url: &Url) -> Option<String> {
    use base64::Engine as _;
    let (user, password) = (url.username(), url.password().unwrap_or_default());
    if user.is_empty() && password.is_empty() {
        return None;
    }
    let decode = |text: &str| percent_decoded(text);
    let pair = format!("{}:{}", decode(user), decode(password));
    Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

fn percent_decoded(text: &str) -> String {
    // What a form reader does, but for the plus.
    let text = text.replace('+', "%2B");
    url::form_urlencoded::parse(text.as_bytes()).map(|(key, _)| key.into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_url_becomes_a_header() {
        let with = |url: &str| basic(&Url::parse(url).unwrap());
        assert_eq!(with("https://receiver.example/"), None);
        assert_eq!(with("https://a:b%40+c@receiver.example/").as_deref(), Some("Basic YTpiQCtj"));
    }
}
