//! The wire and who is plugged into it.
//!
//! The bridge lies in a namespace of its own, so a member shares nothing with the machine but the far end of one cable.
//! Pulling a cable is setting the bridge's end of it down: the member keeps its addresses and goes on inside.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command;
use crate::mount_points;
use crate::process::Home;
use crate::run::{Made, Run};
use crate::spec::DatacenterSpec;

/// Host number of the wire's own servers: model mirrors, Prometheus.
pub const SERVERS_HOST: u8 = 1;
/// Host number of the machine itself.
pub const ROOT_HOST: u8 = 254;

/// The wire between all members of a run.
#[derive(Debug, Clone)]
pub struct Wire {
    namespace: String,
}

/// One member's cable.
#[derive(Debug, Clone)]
pub struct Cable {
    wire: String,
    port: String,
    namespace: String,
}

impl Wire {
    /// Makes the wire: its namespace, its bridge, and the machine's own cable.
    pub fn create(run: &Run) -> Result<Self> {
        let wire = Self::of(run);
        let (ns, instance) = (&wire.namespace, run.instance());
        mount_points::make(Path::new("/run/netns"))?;
        run.note(&Made::NetworkNamespace { name: ns.clone() })?;
        command::words(&format!("ip netns add {ns}")).context("making the wire's namespace; are you root?")?;
        command::words(&format!("ip -n {ns} link set lo up"))?;
        command::words(&format!("ip -n {ns} link add wan type bridge"))?;
        command::words(&format!("ip -n {ns} address add {}/24 dev wan", instance.address(SERVERS_HOST)))?;
        command::words(&format!("ip -n {ns} link set wan up"))?;
        let root = format!("{}-root", instance.prefix());
        run.note(&Made::Link { name: root.clone() })?;
        command::words(&format!("ip link add {root} type veth peer name root netns {ns}"))?;
        command::words(&format!("ip -n {ns} link set root master wan up"))?;
        command::words(&format!("ip address add {}/24 dev {root}", instance.address(ROOT_HOST)))?;
        command::words(&format!("ip link set {root} up"))?;
        Ok(wire)
    }

    /// The wire of a run that stands.
    pub fn of(run: &Run) -> Self {
        Self { namespace: format!("{}-wan", run.instance().prefix()) }
    }

    /// Where a shared server runs: on the wire itself.
    pub fn home(&self) -> Home {
        Home { network: Some(self.namespace.clone()), ..Home::default() }
    }

    /// Name of the wire's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Plugs a new network namespace in.
    pub fn plug(&self, run: &Run, name: &str, address: Ipv4Addr) -> Result<Cable> {
        let cable = self.cable(run, name, address);
        let Cable { wire, port, namespace: ns } = &cable;
        run.note(&Made::NetworkNamespace { name: ns.clone() })?;
        command::words(&format!("ip netns add {ns}"))?;
        command::words(&format!("ip -n {ns} link set lo up"))?;
        command::words(&format!("ip -n {wire} link add {port} type veth peer name wan0 netns {ns}"))?;
        command::words(&format!("ip -n {wire} link set {port} master wan up"))?;
        command::words(&format!("ip -n {ns} address add {address}/24 dev wan0"))?;
        command::words(&format!("ip -n {ns} link set wan0 up"))?;
        // Nothing answers beyond the wire, but without a default route the kernel refuses a service address before
        // kube-proxy's rules can translate it.
        command::words(&format!("ip -n {ns} route add default via {}", run.instance().address(SERVERS_HOST)))?;
        cable
            .home()
            .command(run, "sysctl")
            .args(["-qw", "net.ipv4.ip_forward=1"])
            .output()
            .context("enabling forwarding")?;
        Ok(cable)
    }

    /// Lets the wire's own servers reach a member's pods, as an owner's own Prometheus would from inside.
    ///
    /// The wire forwards nothing, so no member reaches another's pods this way.
    pub fn reach_pods(&self, spec: &DatacenterSpec) -> Result<()> {
        let DatacenterSpec { pod_cidr, address, .. } = spec;
        command::words(&format!("ip -n {} route replace {pod_cidr} via {address}", self.namespace)).map(drop)
    }

    /// The cable of a member that is plugged in already.
    pub fn cable(&self, run: &Run, name: &str, address: Ipv4Addr) -> Cable {
        Cable {
            wire: self.namespace.clone(),
            port: format!("port{}", address.octets()[3]),
            namespace: format!("{}-{name}", run.instance().prefix()),
        }
    }
}

impl Cable {
    /// Where the member's processes live.
    pub fn home(&self) -> Home {
        Home { network: Some(self.namespace.clone()), ..Home::default() }
    }

    /// Name of the member's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// File that holds the member's namespace.
    pub fn namespace_file(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.namespace)
    }

    /// Pulls the cable.
    pub fn cut(&self) -> Result<()> {
        command::words(&format!("ip -n {} link set {} down", self.wire, self.port)).map(drop)
    }

    /// Plugs it in again.
    pub fn mend(&self) -> Result<()> {
        command::words(&format!("ip -n {} link set {} up", self.wire, self.port)).map(drop)
    }

    /// Whether it is pulled.
    pub fn is_cut(&self) -> Result<bool> {
        let link = command::words(&format!("ip -n {} -o link show {}", self.wire, self.port))?;
        Ok(!link.contains(",UP") && !link.contains("<UP"))
    }
}
