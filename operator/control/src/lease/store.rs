//! The Lease object, read and replaced under its resource version.

use std::future::Future;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{Api, ObjectMeta, PostParams};
use thiserror::Error;

/// Why the Lease could not be read or written.
#[derive(Debug, Error)]
pub enum LeaseStoreError {
    /// Somebody else wrote first: read again.
    #[error("somebody else wrote the lease first")]
    Conflict,
    /// The API server refused or did not answer.
    #[error(
        "talking to the API server about the lease failed: check that the operator may get, create and update leases"
    )]
    Api(#[source] Box<kube::Error>),
}

/// Where a Lease is kept.
pub trait LeaseStore: Send + Sync {
    /// The Lease as it is now.
    fn read(&self) -> impl Future<Output = Result<Option<Lease>, LeaseStoreError>> + Send;

    /// Replaces `before` (or creates the Lease), and fails with [`LeaseStoreError::Conflict`] if it is no longer that.
    fn write(
        &self,
        before: Option<&Lease>,
        spec: LeaseSpec,
    ) -> impl Future<Output = Result<Lease, LeaseStoreError>> + Send;
}

/// A Lease in the API server.
#[derive(Clone, Debug)]
pub struct ApiLease {
    api: Api<Lease>,
    name: String,
}

impl ApiLease {
    /// The Lease `name` of a namespace.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, name: &str) -> Self {
        ApiLease { api: Api::namespaced(client, namespace), name: name.to_owned() }
    }
}

impl LeaseStore for ApiLease {
    async fn read(&self) -> Result<Option<Lease>, LeaseStoreError> {
        self.api.get_opt(&self.name).await.map_err(failed)
    }

    async fn write(&self, before: Option<&Lease>, spec: LeaseSpec) -> Result<Lease, LeaseStoreError> {
        let params = PostParams::default();
        match before {
            // The metadata that was read carries the resource version, which makes this a compare-and-swap.
            Some(lease) => {
                let lease = Lease { metadata: lease.metadata.clone(), spec: Some(spec) };
                self.api.replace(&self.name, &params, &lease).await.map_err(failed)
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                self.api.create(&params, &Lease { metadata, spec: Some(spec) }).await.map_err(failed)
            }
        }
    }
}

fn failed(error: kube::Error) -> LeaseStoreError {
    match error {
        kube::Error::Api(status) if status.code == 409 => LeaseStoreError::Conflict,
        error => LeaseStoreError::Api(Box::new(error)),
    }
}
