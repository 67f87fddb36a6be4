//! Asking other machines over HTTP: with a time for all of it, and a bound for what they answer. Nothing
//! is followed anywhere else, and no proxy of the environment is used.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{HeaderValue, Method, Request, StatusCode, header},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

/// For an answer, from the looking up of the host's name to its last byte.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024;
/// Others close idle connections too; this is sooner than most.
const IDLE: Duration = Duration::from_secs(15);
const AGENT: &str = concat!("entrybook/", env!("CARGO_PKG_VERSION"));

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    #[error("it did not answer within {} seconds", PATIENCE.as_secs())]
    Late,
    #[error("its answer broke off, or is longer than {MAX_ANSWER} bytes: {0}")]
    Answer(String),
    #[error("it can't be asked: {0}")]
    Request(String),
    #[error(
        "ENTRYBOOK_LOG_CA_FILE is {}: {cause}. Write a file of certificates in PEM, each between -----BEGIN CERTIFICATE----- \
         and -----END CERTIFICATE-----",
        path.display()
    )]
    CaFile { path: PathBuf, cause: String },
    #[error("TLS can't be used: {0}")]
    Tls(rustls::Error),
}

/// Asks. Clones share the connections.
#[derive(Clone)]
pub(super) struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    patience: Duration,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Its content type, without parameters.
    pub(super) kind: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// Its first line, for a message: whoever answers may have written anything.
    pub(super) fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let line = text.lines().next().unwrap_or_default();
        line.chars().filter(|char| !char.is_control()).take(200).collect()
    }
}

impl Client {
    /// Trusts the usual authorities, and those of the file.
    pub(super) fn new(ca_file: Option<&Path>) -> Result<Self, ClientError> {
        let mut http = HttpConnector::new();
        // What the scheme asks for is up to the one around it.
        http.enforce_http(false);
        http.set_connect_timeout(Some(PATIENCE / 2));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls(ca_file)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(https);
        Ok(Self { pool, patience: PATIENCE })
    }

    pub(super) async fn get(&self, url: &str) -> Result<Answer, ClientError> {
        self.ask(Method::GET, url, Vec::new()).await
    }

    /// Posts a text.
    pub(super) async fn post(&self, url: &str, text: Vec<u8>) -> Result<Answer, ClientError> {
        self.ask(Method::POST, url, text).await
    }

    async fn ask(&self, method: Method, url: &str, text: Vec<u8>) -> Result<Answer, ClientError> {
        let mut request = Request::builder().method(method).uri(url);
        request = request.header(header::USER_AGENT, AGENT);
        if !text.is_empty() {
            let kind = HeaderValue::from_static("text/plain; charset=utf-8");
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request = request
            .body(Full::new(Bytes::from(text)))
            .map_err(|error| ClientError::Request(error.to_string()))?;
        let asking = async {
            let answer = self.pool.request(request).await;
            let answer = answer.map_err(|error| ClientError::Unreachable(causes(&error)))?;
            let status = answer.status();
            let kind = answer.headers().get(header::CONTENT_TYPE);
            let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            let kind = kind.split(';').next().unwrap_or_default().trim().to_lowercase();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| ClientError::Answer(error.to_string()))?;
            Ok::<_, ClientError>(Answer { status, kind, body: body.to_bytes().into() })
        };
        tokio::time::timeout(self.patience, asking).await.unwrap_or(Err(ClientError::Late))
    }
}

/// Without OpenSSL or what the machine trusts: the same everywhere, in a container with nothing else too.
fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, ClientError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        let failed = |cause: String| ClientError::CaFile { path: path.to_owned(), cause };
        let usual = roots.len();
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
        if roots.len() == usual {
            return Err(failed("there is no certificate in it".to_owned()));
        }
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// An error with its causes: the outermost says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Answers every connection with these bytes, and leaves it open.
    async fn answering(bytes: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let bytes = bytes.clone();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(&bytes).await;
                    std::future::pending::<()>().await;
                });
            }
        });
        url
    }

    #[tokio::test]
    async fn answers_are_bounded_and_nothing_is_followed() {
        let client = Client::new(None).unwrap();
        let url = answering(
            b"HTTP/1.1 200 OK\r\ncontent-type: Text/X; a=b\r\ncontent-length: 3\r\n\r\nyes"
                .to_vec(),
        )
        .await;
        let answer = client.post(&format!("{url}/x"), b"text".to_vec()).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.kind.as_str()), (200, "text/x"));
        assert_eq!(answer.body, b"yes");

        let there = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
        let moved = format!("HTTP/1.1 302 Found\r\nlocation: {there}\r\ncontent-length: 0\r\n\r\n");
        let url = answering(moved.into_bytes()).await;
        assert_eq!(client.get(&url).await.unwrap().status.as_u16(), 302);

        let mut long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", MAX_ANSWER + 1);
        long.push_str(&"x".repeat(MAX_ANSWER + 1));
        let url = answering(long.into_bytes()).await;
        assert!(matches!(client.get(&url).await, Err(ClientError::Answer(_))));

        let url = answering(b"garbage\r\n\r\n".to_vec()).await;
        assert!(matches!(client.get(&url).await, Err(ClientError::Unreachable(_))));
    }

    #[tokio::test]
    async fn nobody_is_waited_for_for_ever() {
        let client = Client { patience: Duration::from_millis(200), ..Client::new(None).unwrap() };
        let url = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nye".to_vec()).await;
        assert!(matches!(client.get(&url).await, Err(ClientError::Late)));
    }

    #[test]
    fn a_file_without_certificates_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("ca.pem");
        assert!(matches!(Client::new(Some(&path)), Err(ClientError::CaFile { .. })));
        std::fs::write(&path, "nothing\n").unwrap();
        let error = Client::new(Some(&path)).err().unwrap().to_string();
        assert!(error.contains("there is no certificate in it"), "{error}");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, broken).unwrap();
        assert!(matches!(Client::new(Some(&path)), Err(ClientError::CaFile { .. })));
    }
}
