//! Which addresses a way may lead to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use reqwest::Url;

/// How far a way may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Also to networks of the owner.
    Own,
    /// To what all the world may reach.
    World,
}

impl Reach {
    /// Whether it may lead to this address.
    pub fn includes(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match self {
            Self::Own => reachable(address),
            Self::World => reachable(address) && global(address),
        }
    }
}

/// Endings of names that only mean something in a cluster, a machine or a local network.
const INWARD: [&str; 6] = [".svc", ".cluster.local", ".local", ".localhost", ".internal", ".home.arpa"];

/// Whether a foreign uri may lead to this host.
///
/// A name that cannot be resolved here passes: the owner's proxy may know it, and without a proxy the connection fails. A name
/// that can be must have a global address; which one is connected to is looked at again where it is connected to.
pub(crate) async fn outward(host: &str, port: u16) -> Result<(), String> {
    if let Ok(literal) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return if Reach::World.includes(literal) { Ok(()) } else { Err(format!("{literal} is no public address")) };
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    if !name.contains('.') || INWARD.iter().any(|ending| name.ends_with(ending)) {
        return Err(format!("{name} is a name of a cluster or a local network"));
    }
    let Ok(found) = tokio::net::lookup_host((name.as_str(), port)).await else { return Ok(()) };
    let found: Vec<IpAddr> = found.map(|found| found.ip()).collect();
    match found.first() {
        Some(first) if !found.iter().any(|address| Reach::World.includes(*address)) => {
            Err(format!("{name} has no public address but {first}"))
        }
        _ => Ok(()),
    }
}

/// Whether a name is that of the owner's proxy, which usually stands at a private address.
pub(crate) fn is_proxy(name: &str) -> bool {
    static PROXIES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let variables = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
        variables.iter().filter_map(|variable| proxy_host(&std::env::var(variable).ok()?)).collect()
    });
    PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
}

/// The host of a proxy's setting, which may lack the scheme.
fn proxy_host(setting: &str) -> Option<String> {
    let whole = if setting.contains("://") { setting.to_owned() } else { format!("http://{setting}") };
    Url::parse(&whole).ok()?.host_str().map(str::to_owned)
}

/// Whether an address may be fetched from even where the owner names it: link-local addresses are where clouds hand out a node's
/// credentials.
pub(crate) fn reachable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !link_local_v6(v6) && !v6.is_unspecified() && !v6.is_multicast(),
    }
}

fn link_local_v6(address: Ipv6Addr) -> bool {
    // fd00:ec2::254 is a unique local address by its form and a metadata service by its use.
    address.segments()[0] & 0xffc0 == 0xfe80 || address.segments()[..2] == [0xfd00, 0x0ec2]
}

fn global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => global_v4(v4),
        IpAddr::V6(v6) => global_v6(v6),
    }
}

/// By IANA's registry of special addresses.
fn global_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        [0 | 10 | 127, ..] | [224..=255, ..] => true,
        [100, second, ..] => second & 0xc0 == 64,
        [169, 254, ..] | [192, 168, ..] => true,
        [172, second, ..] => second & 0xf0 == 16,
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        [198, second, ..] => second & 0xfe == 18,
        _ => false,
    };
    !special
}

fn global_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let low = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match segments {
        // Translated to an address of the other family, by NAT64 and by 6to4: that one counts.
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] => global_v4(low(a, b)),
        [0x2002, a, b, ..] => global_v4(low(a, b)),
        // Protocol assignments, Teredo among them, and documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_way_leads_to_addresses_of_all_the_world_only() {
        for inward in [
            "127.0.0.1",
            "10.0.0.8",
            "172.31.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "198.18.0.1",
            "192.0.2.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fd00::8",
            "fc00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:a00:1::1",
            "2001:0:4136:e378::1",
            "2001:db8::1",
            "3fff::1",
        ] {
            assert!(!Reach::World.includes(inward.parse().unwrap()), "{inward}");
        }
        for outward in [
            "8.8.8.8",
            "100.128.0.1",
            "172.32.0.1",
            "192.1.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(Reach::World.includes(outward.parse().unwrap()), "{outward}");
        }
    }

    #[test]
    fn the_owners_way_leads_to_the_owners_networks_but_not_to_the_machines_own_link() {
        for own in ["127.0.0.1", "10.0.0.8", "fd00::8", "8.8.8.8"] {
            assert!(Reach::Own.includes(own.parse().unwrap()), "{own}");
        }
        for link in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254", "0.0.0.0", "ff02::1"] {
            assert!(!Reach::Own.includes(link.parse().unwrap()), "{link}");
        }
    }

    #[tokio::test]
    async fn names_of_the_cluster_and_the_machine_are_refused_whatever_they_resolve_to() {
        for name in [
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "KUBERNETES.default.SVC.",
            "kubernetes",
            "localhost",
            "db.localhost",
            "printer.local",
            "metadata.google.internal",
            "10.0.0.1",
            "[::1]",
            "[fd00::8]",
        ] {
            assert!(outward(name, 443).await.is_err(), "{name}");
        }
        assert!(outward("8.8.8.8", 443).await.is_ok());
    }

    #[test]
    fn a_proxy_is_known_by_its_host_in_whichever_form_it_is_set() {
        for setting in ["http://user:pw@proxy.corp:3128/", "proxy.corp:3128", "https://proxy.corp"] {
            assert_eq!(proxy_host(setting).as_deref(), Some("proxy.corp"), "{setting}");
        }
    }
}
