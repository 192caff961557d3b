//! From the uri of a release to an address that this host fetches from.

use std::fmt;
use std::net::IpAddr;

use koinon_core::ids::{ModelUri, Revision};
use reqwest::Url;

use crate::addresses::reachable;
use crate::wire::{Source, Token};

/// Where and how one model is fetched.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub url: Url,
    pub token: Option<Token>,
    pub ca_bundle: Option<String>,
    /// Where the owner's mirrors answer, which may be in a private network; none where the address is not the owner's.
    pub mirrors: Vec<Site>,
}

/// Scheme, host and port: who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site(String);

impl Site {
    pub fn of(url: &Url) -> Self {
        Self(url.origin().ascii_serialization())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(
        "no source matches `{0}`, which is not an http(s) address itself; add one to the Cooperative's spec.sources, for \
         example {{match: \"hf://\", mirror: \"https://…\"}}"
    )]
    Unmapped(ModelUri),
    #[error("`{address}` from the source that matches `{prefix}` is not an address that can be fetched: {why}")]
    Address { prefix: String, address: String, why: &'static str },
    #[error("`{0}` is not an address that can be fetched: {1}")]
    Uri(ModelUri, &'static str),
}

/// The address of a model: the longest matching source, or the uri itself where none matches.
pub(crate) fn resolve(uri: &ModelUri, revision: Option<&Revision>, sources: &[Source]) -> Result<Origin, SourceError> {
    let longest = sources
        .iter()
        .filter(|source| !source.prefix.is_empty() && uri.as_str().starts_with(&source.prefix))
        .max_by_key(|source| source.prefix.len());
    let revision = revision.map_or("", Revision::as_str);
    match longest {
        Some(source) => {
            let rest = &uri.as_str()[source.prefix.len()..];
            let mirror = source.mirror.replace("{revision}", revision);
            let address = format!("{mirror}{rest}");
            let url = under(&mirror, &address, [rest, revision]).map_err(|why| SourceError::Address {
                prefix: source.prefix.clone(),
                address: address.clone(),
                why,
            })?;
            let sites = sources.iter().filter_map(|source| Url::parse(&source.mirror).ok());
            let mirrors = sites.map(|mirror| Site::of(&mirror)).collect();
            Ok(Origin { url, token: source.token.clone(), ca_bundle: source.ca_bundle.clone(), mirrors })
        }
        None if uri.as_str().starts_with("http") => {
            let url = fetchable(&uri.as_str().replace("{revision}", revision))
                .map_err(|why| SourceError::Uri(uri.clone(), why))?;
            Ok(Origin { url, token: None, ca_bundle: None, mirrors: Vec::new() })
        }
        None => Err(SourceError::Unmapped(uri.clone())),
    }
}

/// The file name of a model that is one file, or `None` where the uri is a folder.
pub(crate) fn single_file(uri: &ModelUri) -> Option<&str> {
    let path = uri.as_str().split(['?', '#']).next()?;
    path.ends_with(".gguf").then(|| path.rsplit('/').next())?
}

/// The address of one file in a folder.
pub(crate) fn file_url(folder: &Url, path: &str) -> Url {
    let mut url = folder.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path.split('/'));
    }
    url
}

/// The address, which must stay on the mirror: the source's token goes with it.
fn under(mirror: &str, address: &str, foreign: [&str; 2]) -> Result<Url, &'static str> {
    let (mirror, url) = (fetchable(mirror)?, fetchable(address)?);
    if url.origin() != mirror.origin() {
        return Err("it leaves the mirror's host; end the mirror with a `/`");
    }
    // URL parsers also read `%2e` as a dot.
    let climbs = |text: &str| text.to_ascii_lowercase().replace("%2e", ".").split(['/', '\\']).any(|part| part == "..");
    if foreign.into_iter().any(climbs) {
        return Err("its `..` leaves the mirror's folder");
    }
    Ok(url)
}

pub(crate) fn fetchable(address: &str) -> Result<Url, &'static str> {
    let url = Url::parse(address).map_err(|_| "it is not a URL")?;
    permitted(&url)?;
    Ok(url)
}

/// Also asked of every redirect.
pub(crate) fn permitted(url: &Url) -> Result<(), &'static str> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it begins with neither http:// nor https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it carries a user or password; put credentials into the source's Secret");
    }
    let literal = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
    match literal {
        Some(address) if !reachable(address) => {
            Err("it is an address of the machine's own link, such as a cloud's metadata")
        }
        _ if url.host_str().is_none() => Err("it names no host"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> ModelUri {
        text.parse().unwrap()
    }

    fn source(prefix: &str, mirror: &str) -> Source {
        Source { prefix: prefix.into(), mirror: mirror.into(), token: None, ca_bundle: None }
    }

    #[test]
    fn the_longest_matching_source_wins() {
        let sources = [source("hf://", "https://general/"), source("hf://org/", "https://special/")];
        let origin = resolve(&uri("hf://org/model"), None, &sources).unwrap();
        assert_eq!(origin.url.as_str(), "https://special/model");
        let origin = resolve(&uri("hf://other/model"), None, &sources).unwrap();
        assert_eq!(origin.url.as_str(), "https://general/other/model");
    }

    #[test]
    fn the_revision_stands_where_the_mirror_wants_it() {
        let sources = [source("hf://org/m", "https://hub/org/m/resolve/{revision}")];
        let revision: Revision = "abc123".parse().unwrap();
        let origin = resolve(&uri("hf://org/m"), Some(&revision), &sources).unwrap();
        assert_eq!(file_url(&origin.url, "sub dir/a#b").as_str(), "https://hub/org/m/resolve/abc123/sub%20dir/a%23b");
    }

    #[test]
    fn only_a_way_that_begins_at_a_mirror_may_lead_to_the_owners_mirrors() {
        let sources = [source("hf://", "http://10.0.0.5:8000/"), source("s3://", "https://store.example/{revision}/")];
        let mapped = resolve(&uri("hf://org/m"), None, &sources).unwrap().mirrors;
        assert_eq!(
            mapped.iter().map(Site::to_string).collect::<Vec<_>>(),
            ["http://10.0.0.5:8000", "https://store.example"]
        );
        assert!(resolve(&uri("http://10.0.0.5:8000/m"), None, &sources).unwrap().mirrors.is_empty());
    }

    #[test]
    fn a_uri_that_nothing_maps_says_what_to_add() {
        let error = resolve(&uri("hf://org/m"), None, &[]).unwrap_err().to_string();
        assert!(error.contains("spec.sources"), "{error}");
    }

    #[test]
    fn no_uri_leads_a_mirrors_token_elsewhere() {
        let bare = [source("hf://", "https://mirror.example")];
        assert!(resolve(&uri("hf://.evil.example/m"), None, &bare).is_err());
        assert!(resolve(&uri("hf://@evil.example/m"), None, &bare).is_err());
        assert!(resolve(&uri("hf://:444/m"), None, &bare).is_err());
        let folder = [source("hf://", "https://mirror.example/open/{revision}/")];
        for climbing in ["hf://../secret/m", "hf://a/%2E%2e/%2e./secret", "hf://a\\..\\..\\secret"] {
            assert!(resolve(&uri(climbing), None, &folder).is_err(), "{climbing}");
        }
        assert!(resolve(&uri("hf://m"), Some(&"../../secret".parse().unwrap()), &folder).is_err());
        assert!(resolve(&uri("hf://a..b/m"), Some(&"v1".parse().unwrap()), &folder).is_ok());
    }

    #[test]
    fn addresses_of_the_nodes_own_link_are_not_fetched() {
        for address in [
            "http://169.254.169.254/latest/meta-data/",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://[fd00:ec2::254]/",
            "http://0.0.0.0/",
            "ftp://host/x",
            "file:///etc/passwd",
            "https://user:password@host/x",
        ] {
            assert!(fetchable(address).is_err(), "{address}");
        }
        for address in ["https://mirror.example/m", "http://10.1.2.3:8000/m", "http://[fd12::1]/m"] {
            assert!(fetchable(address).is_ok(), "{address}");
        }
    }

    #[test]
    fn only_a_uri_that_ends_in_gguf_is_one_file() {
        assert_eq!(single_file(&uri("https://h/a/tiny.gguf")), Some("tiny.gguf"));
        assert_eq!(single_file(&uri("https://h/a/tiny.gguf?download=true")), Some("tiny.gguf"));
        assert_eq!(single_file(&uri("hf://org/model")), None);
    }
}
