//! The way to a source: which addresses may be connected to, over how many redirects, and what goes along.
//!
//! A uri comes from another member's job or from a vote, so what it leads to is no business of theirs unless all the world may
//! reach it: such a way leads to globally routable addresses only. The owner's own mirrors may stand anywhere but on the
//! machine's own link, and only a way that begins at one of them leads to one of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT_ENCODING, LOCATION, RANGE};
use reqwest::{Certificate, Client, Response, Url, redirect};

use crate::addresses::{self, Reach};
use crate::download::{shown, whole_story};
use crate::sources::{self, Origin, Site};
use crate::wire::{ReadKey, Token};

/// Mirrors and object stores need two or three.
const MOST_REDIRECTS: usize = 5;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WayError {
    /// It must not be sent.
    #[error("{from} leads to {to}, which is not fetched from: {why}")]
    Forbidden { from: String, to: String, why: String },
    /// It could not be sent.
    #[error("{}", whole_story(.0))]
    Broken(reqwest::Error),
}

/// How requests reach one source.
pub(crate) struct Way {
    /// For the owner's mirrors.
    own: Client,
    /// For all the rest of the world; `None` where nothing is followed, because the way ends in this cluster.
    foreign: Option<Client>,
    /// Where the owner's mirrors answer. Empty for a way that begins elsewhere.
    mirrors: Vec<Site>,
    token: Option<(Site, Token)>,
}

impl Way {
    /// The way to `origin`.
    pub fn to(origin: &Origin, idle: Duration) -> Result<Self, String> {
        let token = origin.token.clone().map(|token| (Site::of(&origin.url), token));
        Ok(Self {
            own: client(origin, idle, Reach::Own)?,
            foreign: Some(client(origin, idle, Reach::World)?),
            mirrors: origin.mirrors.clone(),
            token,
        })
    }

    /// The way to the cache itself, in this cluster.
    pub fn inside(client: Client, cache: &Url, key: &ReadKey) -> Self {
        let token = Some((Site::of(cache), Token(key.as_str().to_owned())));
        Self { own: client, foreign: None, mirrors: Vec::new(), token }
    }

    /// Asks for what is at `url`, from the byte `from` on.
    pub async fn get(&self, url: &Url, from: u64) -> Result<Response, WayError> {
        let mut at = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let client = self.client(url, &at).await?;
            let mut request = client.get(at.clone()).header(ACCEPT_ENCODING, "identity");
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            // Whoever the mirror redirects to is not the mirror.
            if let Some((_, Token(token))) = self.token.as_ref().filter(|(mirror, _)| Site::of(&at) == *mirror) {
                request = request.bearer_auth(token);
            }
            let response = request.send().await.map_err(|error| WayError::Broken(error.without_url()))?;
            let Some(next) = self.redirected(&at, &response) else { return Ok(response) };
            at = next;
        }
        let why = format!("it redirects more than {MOST_REDIRECTS} times");
        Err(WayError::Forbidden { from: shown(url), to: shown(&at), why })
    }

    /// Where an answer leads, if it does.
    fn redirected(&self, at: &Url, response: &Response) -> Option<Url> {
        let leads = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = response.headers().get(LOCATION).filter(|_| leads && self.foreign.is_some())?;
        at.join(location.to_str().ok()?).ok()
    }

    /// What may be asked for `at`, where one has come from `from`.
    async fn client(&self, from: &Url, at: &Url) -> Result<&Client, WayError> {
        let Some(foreign) = &self.foreign else { return Ok(&self.own) };
        let forbidden = |why: String| WayError::Forbidden { from: shown(from), to: shown(at), why };
        sources::permitted(at).map_err(|why| forbidden(why.to_owned()))?;
        if self.mirrors.contains(&Site::of(at)) {
            return Ok(&self.own);
        }
        let host = at.host_str().unwrap_or_default();
        addresses::outward(host, at.port_or_known_default().unwrap_or_default())
            .await
            .map_err(|why| forbidden(format!("{why}; {}", permit(at))))?;
        Ok(foreign)
    }
}

/// What an owner adds to let an address be fetched from.
fn permit(url: &Url) -> String {
    let site = Site::of(url);
    format!(
        "where that is wanted, name it in the Cooperative's spec.sources, as {{match: \"{site}/\", mirror: \"{site}/\"}}"
    )
}

fn client(origin: &Origin, idle: Duration, reach: Reach) -> Result<Client, String> {
    let builder = || {
        Client::builder()
            .user_agent(concat!("koinon/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(idle)
            // Each is looked at first.
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::new(Names(reach)))
    };
    let built = match &origin.ca_bundle {
        Some(pem) => {
            let roots = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| whole_story(&error))?;
            if roots.is_empty() {
                return Err("its CA bundle holds no certificate".to_owned());
            }
            builder().tls_certs_only(roots).build()
        }
        // An image without system certificates can still fetch over plain HTTP.
        None if origin.url.scheme() == "http" => builder().build().or_else(|_| builder().tls_certs_only([]).build()),
        None => builder().build(),
    };
    built.map_err(|error| whole_story(&error))
}

/// Names resolved to addresses that may be connected to, only. What is connected to is what was looked at here: a name that
/// changes its mind between a look and the connection gains nothing.
struct Names(Reach);

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let through = reach == Reach::Own || addresses::is_proxy(name.as_str());
            let reach = if through { Reach::Own } else { Reach::World };
            let permitted: Vec<SocketAddr> = found.filter(|found| reach.includes(found.ip())).collect();
            if permitted.is_empty() {
                return Err(format!("{} has no address that may be fetched from", name.as_str()).into());
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn addresses_of(reach: Reach, name: &str) -> Result<Vec<SocketAddr>, String> {
        let resolved = Names(reach).resolve(name.parse().unwrap()).await;
        resolved.map(Iterator::collect).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_is_connected_to_is_filtered_again_whatever_an_earlier_look_has_found() {
        let error = addresses_of(Reach::World, "localhost").await.unwrap_err();
        assert!(error.contains("localhost has no address"), "{error}");
        assert!(!addresses_of(Reach::Own, "localhost").await.unwrap().is_empty());
    }
}
