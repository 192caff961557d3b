//! Real datacenters on one machine, for tests and for the demo.
//!
//! A [`Fleet`] is a wire and the datacenters on it. Each [`Datacenter`] is a network namespace with its own etcd, API
//! server, controller manager, scheduler, DNS, containerd, kubelet and kube-proxy, so nothing of Kubernetes is mocked
//! and nothing is shared but the wire. A datacenter can be cut off, mended, backed up and stopped.
//!
//! ```text
//!   root namespace                koinon-wan                       koinon-aarhus
//!   koinon-root 10.250.0.254 ──── bridge wan 10.250.0.1 ──── wan0 10.250.0.11   etcd, API server :6443, kubelet,
//!   (tests, kubectl)              (mirrors, Prometheus)                          containerd, pods 10.11.0.0/16
//! ```
//!
//! Everything that is made on the machine is written down before it is made ([`run::Run`]), so that it can be removed
//! by another process after a crash. This crate is for tests and tools only: it returns `anyhow` errors, for people.

pub mod cache;
pub mod cgroup;
pub mod command;
pub mod control_plane;
pub mod datacenter;
pub mod fleet;
pub mod footprint;
pub mod gpus;
pub mod ground;
pub mod image;
pub mod kubeconfig;
pub mod model;
pub mod mount_points;
pub mod network;
pub mod node;
pub mod pki;
pub mod preflight;
pub mod process;
pub mod python;
pub mod relay;
pub mod run;
pub mod said;
pub mod servers;
pub mod size;
pub mod spec;
pub mod story;
pub mod suite;
pub mod toolchain;
pub mod wait;

pub use datacenter::Datacenter;
pub use fleet::Fleet;
pub use image::Image;
pub use run::Run;
pub use spec::DatacenterSpec;
pub use story::Narrator;
pub use suite::Suite;
pub use toolchain::{Tool, Toolchain};
pub use wait::{Poll, wait_until};
