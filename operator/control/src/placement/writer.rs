//! Writes to the API server under the leader lease.
//!
//! Every write asks for the right to write first and is given up when that right or its own time ends; whether it took
//! effect is then unknown, which is why all of them are idempotent or carry a resource version.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::context::Context;
use crate::lease::{Fenced, LeaseHandle};

/// Why a write has no result.
#[derive(Debug, Error)]
pub enum WriteError {
    /// Another replica leads.
    #[error("writing {what}: this replica does not hold the leader lease")]
    NotLeader {
        /// What was to be written.
        what: String,
    },
    /// No answer in time, or the lease ended first. It may have taken effect.
    #[error("writing {what}: no answer in time; whether it took effect will show at the next look")]
    NoAnswer {
        /// What was to be written.
        what: String,
    },
    /// The API server said no, or could not be reached.
    #[error("writing {what}: {source}")]
    Refused {
        /// What was to be written.
        what: String,
        /// What it said.
        source: Box<kube::Error>,
    },
}

impl WriteError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::NotLeader { .. } | Self::NoAnswer { .. } => None,
        }
    }

    /// Whether somebody else wrote first: look again and decide again. An object that is there already answers the same.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// Whether the object is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// What the API server said, where it refused what was to be written.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => Some(&status.message),
                _ => None,
            },
            Self::NotLeader { .. } | Self::NoAnswer { .. } => None,
        }
    }
}

/// The means to write.
#[derive(Clone, Debug)]
pub struct Writer {
    lease: LeaseHandle,
    timeout: Duration,
    manager: String,
}

impl Writer {
    /// A writer whose fields bear the name of `controller`.
    #[must_use]
    pub fn new(ctx: &Context, controller: &str) -> Self {
        Self::with(ctx.lease.clone(), ctx.write_timeout(), controller)
    }

    /// A writer of its own, for tools and tests.
    #[must_use]
    pub fn with(lease: LeaseHandle, timeout: Duration, controller: &str) -> Self {
        Self { lease, timeout, manager: koinon_api::names::field_manager(controller) }
    }

    /// Server-side apply: these fields are ours, whoever set them before.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn apply<K>(&self, api: &Api<K>, object: &K) -> Result<K, WriteError>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let name = object.name_any();
        let params = PatchParams::apply(&self.manager).force();
        self.run(what::<K>("apply", &name), api.patch(&name, &params, &Patch::Apply(object))).await
    }

    /// Creates an object; one of that name is a conflict.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn create<K>(&self, api: &Api<K>, object: &K) -> Result<K, WriteError>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let params = PostParams { field_manager: Some(self.manager.clone()), ..PostParams::default() };
        self.run(what::<K>("create", &object.name_any()), api.create(&params, object)).await
    }

    /// Merges `change` into the object of that name, whatever version it is in.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn merge<K>(&self, api: &Api<K>, name: &str, change: &serde_json::Value) -> Result<(), WriteError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let params = PatchParams { field_manager: Some(self.manager.clone()), ..PatchParams::default() };
        let patch = Patch::Merge(change);
        self.run(what::<K>("change", name), api.patch_metadata(name, &params, &patch)).await.map(drop)
    }

    /// Replaces an object, if it is still in the version that `object` carries.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn replace<K>(&self, api: &Api<K>, object: &K) -> Result<K, WriteError>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let params = PostParams { field_manager: Some(self.manager.clone()), ..PostParams::default() };
        let name = object.name_any();
        self.run(what::<K>("replace", &name), api.replace(&name, &params, object)).await
    }

    /// Replaces the status of an object, if it is still in the version that `object` carries.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn replace_status<K>(&self, api: &Api<K>, object: &K) -> Result<K, WriteError>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let params = PostParams { field_manager: Some(format!("{}-status", self.manager)), ..PostParams::default() };
        let name = object.name_any();
        self.run(what::<K>("replace the status of", &name), api.replace_status(&name, &params, object)).await
    }

    /// Deletes exactly this object and what it owns; one that is gone, or is another by now, is a success.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn delete<K>(&self, api: &Api<K>, object: &K) -> Result<(), WriteError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: object.uid(), resource_version: None }),
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        let name = object.name_any();
        match self.run(what::<K>("delete", &name), api.delete(&name, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn run<T>(
        &self,
        what: String,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, WriteError> {
        let Ok(fence) = self.lease.guard() else { return Err(WriteError::NotLeader { what }) };
        match tokio::time::timeout(self.timeout, fence.within(request)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Fenced::Failed(source))) => Err(WriteError::Refused { what, source: Box::new(source) }),
            Ok(Err(Fenced::Ended)) | Err(_) => Err(WriteError::NoAnswer { what }),
        }
    }
}

fn what<K: Resource<DynamicType = ()>>(verb: &str, name: &str) -> String {
    format!("{verb} {} {name}", K::kind(&()))
}
