//! What a datacenter is started with.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::run::{Instance, Run};

/// An IPv4 subnet, `10.11.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: Ipv4Addr,
    bits: u8,
}

impl Subnet {
    /// The address with this number in the subnet.
    pub fn host(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first) + number)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a subnet such as 10.11.0.0/16");
        let (first, bits) = text.split_once('/').ok_or_else(wrong)?;
        let bits = bits.parse().ok().filter(|bits| (8..=28).contains(bits)).ok_or_else(wrong)?;
        Ok(Self { first: first.parse().map_err(|_| wrong())?, bits })
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

/// What a datacenter is started with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatacenterSpec {
    /// Its name, and the name of its node and of its kubeconfig context.
    pub name: String,
    /// Its address on the wire.
    pub address: Ipv4Addr,
    /// Addresses of its pods; nobody outside sees them.
    pub pod_cidr: Subnet,
    /// Addresses of its services; nobody outside sees them.
    pub service_cidr: Subnet,
    /// Whether it has a node. Without one it is an API server to apply things to, up in a few seconds.
    pub node: bool,
    /// Whether its scheduler knows taints of single devices. Kubernetes 1.34 serves them only where it is told to; where
    /// it is not, the API server drops them without a word.
    #[serde(default)]
    pub device_taints: bool,
    /// More flags of its servers.
    #[serde(default)]
    pub flags: Flags,
}

/// Flags of a control plane beyond the usual ones.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flags {
    /// Of the API server.
    pub api_server: Vec<String>,
    /// Of the controller manager.
    pub controller_manager: Vec<String>,
}

impl DatacenterSpec {
    /// The datacenter at position `index` on the wire: addresses `.11`, `.12`, … with subnets of their own.
    pub fn at(instance: Instance, index: u8, name: &str) -> Self {
        let number = 11 + index;
        Self {
            name: name.to_owned(),
            address: instance.address(number),
            pod_cidr: Subnet { first: Ipv4Addr::new(10, number, 0, 0), bits: 16 },
            service_cidr: Subnet { first: Ipv4Addr::new(10, 100 + number, 0, 0), bits: 16 },
            node: true,
            device_taints: false,
            flags: Flags::default(),
        }
    }

    /// Fails if the name cannot be that of a node, a network namespace and a folder of the run at once.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let label = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if name.is_empty() || name.len() > 30 || !label {
            return Err(format!(
                "{name:?} is no name for a datacenter; use up to 30 lower case letters, digits and inner hyphens"
            ));
        }
        if ["mounts", "wan", "wire", "desk"].contains(&name.as_str()) {
            return Err(format!("{name:?} is a name that the run itself uses; take another"));
        }
        Ok(())
    }

    /// The same without a node.
    pub fn without_node(mut self) -> Self {
        self.node = false;
        self
    }

    /// The same with taints of single devices.
    pub fn with_device_taints(mut self) -> Self {
        self.device_taints = true;
        self
    }

    /// The same with more flags for its servers.
    pub fn with_flags(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    /// Its control group below the hierarchies' roots.
    pub fn group(&self, run: &Run) -> String {
        format!("{}/{}", run.instance().prefix(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_leave_the_runs_folder_is_refused() {
        let named = |name: &str| DatacenterSpec::at(Instance::default(), 0, name).check();
        assert_eq!(named("aarhus"), Ok(()));
        for wrong in ["", "..", "a/b", "Aarhus", "-a", "wire", "a-name-that-is-much-too-long-for-it"] {
            assert!(named(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_subnet_is_written_as_it_is_read() {
        let subnet: Subnet = "10.111.0.0/16".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.111.0.0/16");
        assert_eq!(subnet.host(1), Ipv4Addr::new(10, 111, 0, 1));
        assert!("10.111.0.0".parse::<Subnet>().is_err());
        assert!("10.111.0.0/33".parse::<Subnet>().is_err());
    }
}
