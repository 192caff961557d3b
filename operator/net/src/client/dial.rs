//! From an endpoint to a TLS connection with the expected key behind it.

use std::fmt;
use std::io;
use std::sync::Arc;

use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use koinon_core::ids::{Endpoint, PublicKey};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::{DialError, Target};
use crate::limits::Timing;
use crate::tls::{Alpn, CertUse, PeerIdentity, TlsIdentity, Trust, client_config, peer_of, refusal_in};

/// A proxy's answer to `CONNECT` is a few lines.
const MAX_PROXY_ANSWER: usize = 8 * 1024;

/// Which endpoints are reached through a proxy.
#[derive(Clone)]
pub struct Proxies(Arc<Matcher>);

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Proxies {
    /// As `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    #[must_use]
    pub fn from_env() -> Self {
        Proxies(Arc::new(Matcher::from_env()))
    }

    /// None, whatever the environment says.
    #[must_use]
    pub fn none() -> Self {
        Proxies(Arc::new(Matcher::builder().build()))
    }

    /// `https` for everything but what `no` lists, in the syntax of the environment variables.
    #[must_use]
    pub fn with(https: &str, no: &str) -> Self {
        Proxies(Arc::new(Matcher::builder().https(https.to_owned()).no(no.to_owned()).build()))
    }

    fn for_endpoint(&self, endpoint: &Endpoint) -> Option<Intercept> {
        self.0.intercept(&endpoint.as_str().parse().ok()?)
    }
}

/// Dials another member's gateway and requires that `key` has certified it; `limit` bounds the connection and, again, the
/// handshake.
///
/// # Errors
/// What stands between here and there, in words that name the fix.
pub async fn dial_gateway(
    endpoint: &Endpoint,
    key: PublicKey,
    identity: &TlsIdentity,
    proxies: &Proxies,
    limit: Duration,
) -> Result<(TlsStream<TcpStream>, PeerIdentity), DialError> {
    let timing = Timing { connect: limit, handshake: limit, ..Timing::default() };
    dial(endpoint, key, Alpn::Http2, identity, proxies, &timing).await
}

/// Dials `endpoint` and requires that `key` answers.
pub(super) async fn dial(
    endpoint: &Endpoint,
    key: PublicKey,
    protocol: Alpn,
    identity: &TlsIdentity,
    proxies: &Proxies,
    timing: &Timing,
) -> Result<(TlsStream<TcpStream>, PeerIdentity), DialError> {
    let cert_use = if protocol == Alpn::Http2 { CertUse::Gateway } else { CertUse::Peer };
    let config = client_config(identity, cert_use, Trust::Exactly(key), &[protocol])?;
    let proxy = proxies.for_endpoint(endpoint);
    let target = Target { endpoint: endpoint.clone(), proxy: proxy.as_ref().map(authority) };
    let late = |doing: &'static str, limit: Duration| {
        let target = target.clone();
        DialError::Timeout { doing, target, seconds: limit.as_secs() }
    };

    let tcp = async {
        match &proxy {
            Some(proxy) => through(proxy, &target).await,
            None => connect(endpoint.host_port(), &target).await,
        }
    };
    let tcp = timeout(timing.connect, tcp).await.map_err(|_| late("connecting to", timing.connect))??;
    let _ = tcp.set_nodelay(true);

    // The name serves load balancers that route by it; the certificate is judged by its key alone.
    let name = ServerName::try_from(endpoint.host_port().0.to_owned()).map_err(|_| DialError::Name {
        target: target.clone(),
        source: io::Error::from(io::ErrorKind::InvalidInput),
    })?;
    let tls = timeout(timing.handshake, TlsConnector::from(config).connect(name, tcp))
        .await
        .map_err(|_| late("the TLS handshake with", timing.handshake))?
        .map_err(|source| match refusal_in(&source) {
            Some(refusal) => DialError::Certificate { target: target.clone(), refusal },
            None => DialError::Handshake { target: target.clone(), source },
        })?;
    let state = tls.get_ref().1;
    if Alpn::agreed(state) != Some(protocol) {
        return Err(DialError::Protocol { target, wanted: protocol.to_string() });
    }
    let peer = peer_of(state).map_err(|refusal| DialError::Certificate { target, refusal })?;
    Ok((tls, peer))
}

/// Tries every address of the host in turn.
async fn connect((host, port): (&str, u16), target: &Target) -> Result<TcpStream, DialError> {
    let name = |source| DialError::Name { target: target.clone(), source };
    let addresses: Vec<_> = lookup_host((host, port)).await.map_err(name)?.collect();
    let failed = |source| DialError::Connect { target: target.clone(), source };
    TcpStream::connect(addresses.as_slice()).await.map_err(failed)
}

/// Asks the proxy for a tunnel.
async fn through(proxy: &Intercept, target: &Target) -> Result<TcpStream, DialError> {
    let refused = |answer: &str| {
        let answer = answer.chars().filter(|c| !c.is_control()).take(200).collect();
        DialError::Proxy { target: target.clone(), answer }
    };
    if proxy.uri().scheme_str().is_some_and(|scheme| scheme != "http") {
        return Err(refused("only http:// proxies with CONNECT are spoken to"));
    }
    let Some(host) = proxy.uri().host() else { return Err(refused("HTTPS_PROXY names no host")) };
    let port = proxy.uri().port_u16().unwrap_or(80);
    let mut tcp = connect((host.trim_matches(['[', ']']), port), target).await?;

    let authority = target.endpoint.as_str().trim_start_matches("https://");
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    if let Some(credentials) = proxy.basic_auth() {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(credentials.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let broken = |error: io::Error| refused(&error.to_string());
    tcp.write_all(&request).await.map_err(broken)?;

    // Byte by byte, because whatever follows the empty line belongs to TLS already.
    let mut answer = Vec::with_capacity(256);
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_PROXY_ANSWER {
            return Err(refused("its answer is longer than 8 KiB"));
        }
        answer.push(tcp.read_u8().await.map_err(broken)?);
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    let mut words = status.split_ascii_whitespace();
    match (words.next(), words.next()) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some("200")) => Ok(tcp),
        _ => Err(refused(status)),
    }
}

/// Host and port of the proxy; its credentials stay out of errors and logs.
fn authority(proxy: &Intercept) -> String {
    let uri = proxy.uri();
    match (uri.host(), uri.port_u16()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        _ => "(without a host)".to_owned(),
    }
}
