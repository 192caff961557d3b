//! Reaching peers through what stands between.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy knows tests by their attribute, not their helpers.

mod kit;

use std::sync::{Arc, Mutex};

use koinon_net::client::Proxies;
use koinon_net::limits::Limits;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use kit::{League, Node, a_while, until};

/// A proxy that answers `CONNECT` with `answer`, notes what it was asked, and on 200 connects.
async fn proxy(answer: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let note = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let note = note.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(near.read_u8().await?);
                }
                let request = String::from_utf8(request).unwrap();
                let target = request.split(' ').nth(1).unwrap().to_owned();
                note.lock().unwrap().push(request);
                near.write_all(answer.as_bytes()).await?;
                if answer.contains(" 200 ") {
                    let mut far = TcpStream::connect(target).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    (address, asked)
}

async fn nodes(https_proxy: &str, no_proxy: &str) -> (Node, Node) {
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    let proxies = Proxies::with(https_proxy, no_proxy);
    let a = Node::start_with(&league, "aarhus", Limits::default(), kit::timing(), proxies).await;
    let b = Node::start(&league, "bilbao").await;
    a.knows(&b);
    b.knows(&a);
    b.append(1);
    (a, b)
}

#[tokio::test]
async fn peers_are_read_through_the_proxy_with_its_credentials() {
    let (address, asked) = proxy("HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n").await;
    let (a, b) = nodes(&format!("http://user:open%20sesame@{address}"), "").await;
    a.reads(&[&b], &[]);
    until("a reads b", || a.store.len_of(&b.key()) == 1).await;
    let asked = asked.lock().unwrap()[0].clone();
    let target = format!("127.0.0.1:{}", b.address.port());
    assert!(asked.starts_with(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n")), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic dXNlcjpvcGVuIHNlc2FtZQ=="), "{asked}");
}

#[tokio::test]
async fn a_host_in_no_proxy_is_dialled_directly() {
    let (address, asked) = proxy("HTTP/1.1 200 OK\r\n\r\n").await;
    let (a, b) = nodes(&format!("http://{address}"), "example.org,127.0.0.0/8").await;
    a.reads(&[&b], &[]);
    until("a reads b", || a.store.len_of(&b.key()) == 1).await;
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_without_its_password() {
    let (address, _) = proxy("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n").await;
    let (a, b) = nodes(&format!("http://user:hunter2@{address}"), "").await;
    a.reads(&[&b], &[]);
    until("it is named", || !a.downs(&b.key()).is_empty()).await;
    let told = a.downs(&b.key()).remove(0);
    assert!(told.starts_with("ProxyRefuses") && told.contains("407") && told.contains(&address), "{told}");
    assert!(told.contains("NO_PROXY") && !told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn a_proxy_that_never_ends_its_answer_is_left() {
    let (address, _) = proxy(Box::leak("HTTP/1.1 200 OK\r\nX: y\r\n".repeat(2000).into_boxed_str())).await;
    let (a, b) = nodes(&format!("http://{address}"), "").await;
    a.reads(&[&b], &[]);
    until("it is named", || a.downs(&b.key()).iter().any(|told| told.contains("8 KiB"))).await;
}

#[tokio::test]
async fn a_proxy_that_intercepts_is_named_by_its_certificate() {
    // It answers every TLS handshake itself, under an authority of the company.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Example Corp TLS Inspection CA");
    let certificate: CertificateDer<'static> = params.self_signed(&key).unwrap().into();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) = nodes(&format!("http://{}", listener.local_addr().unwrap()), "").await;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(tcp.read_u8().await?);
            }
            tcp.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            let _ = acceptor.accept(tcp).await;
        }
        std::io::Result::Ok(())
    });
    a.reads(&[&b], &[]);
    until("it is named", || !a.downs(&b.key()).is_empty()).await;
    let told = a.downs(&b.key()).remove(0);
    for part in ["WrongCertificate", "Example Corp TLS Inspection CA", "through the proxy", "TLS passthrough"] {
        assert!(told.contains(part), "{part} is missing in: {told}");
    }
}

#[tokio::test]
async fn nobody_at_the_address_is_told_as_such() {
    let (a, b) = nodes("", "").await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = format!("https://{}", free.local_addr().unwrap()).parse().unwrap();
    drop(free);
    let address = koinon_net::client::PeerAddress {
        endpoints: vec![nowhere],
        gateways: vec![],
        protocol: koinon_net::tls::Alpn::Peer,
    };
    a.dialler.set_peers([(b.key(), address.clone())].into());
    until("it is told", || !a.downs(&b.key()).is_empty()).await;
    assert!(a.downs(&b.key())[0].starts_with("Unreachable"), "{:?}", a.downs(&b.key()));
    // A second endpoint that works is found behind one that does not.
    let both =
        koinon_net::client::PeerAddress { endpoints: vec![address.endpoints[0].clone(), b.endpoint()], ..address };
    a.dialler.set_peers([(b.key(), both)].into());
    until("a reads b", || a.store.len_of(&b.key()) == 1).await;
    a_while().await;
    assert_eq!(a.ups(&b.key()), 1);
}
