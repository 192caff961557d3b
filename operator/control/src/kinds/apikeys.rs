//! Gathers the hashes of all API keys into the one Secret that the gateway may read.
//!
//! People keep one Secret a key, beside the operator key. The gateway takes foreign traffic: a right to list Secrets would
//! reach the operator key, so it reads the gathered one by its name and no other.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use koinon_api::api_keys::{ApiKey, ENTRY};
use koinon_api::conditions::Reason;
use koinon_api::{labels, names};
use koinon_core::ids::{Digest, Namespace};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, Resource, ResourceExt};
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::cache;
use crate::context::Context;
use crate::events::{Events, Severity};
use crate::lease::{Fenced, NotLeader};
use crate::metrics::CommonsPart;

/// The gathered Secret is looked at again this often, in case somebody changed or deleted it.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How soon a failed write is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(3);

/// Why the keys could not be written.
#[derive(Debug, Error)]
enum GatherError {
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    #[error("{0} Secret {secret} was not answered in time", secret = labels::API_KEYS_SECRET)]
    Timeout(&'static str),
    #[error("{doing} Secret {secret}: {source}", secret = labels::API_KEYS_SECRET)]
    Api { doing: &'static str, source: Box<kube::Error> },
    #[error("writing the keys as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Keeps the gathered Secret equal to the keys that people made, until `stop`.
///
/// # Errors
/// None; an API server that cannot be reached is tried again.
pub async fn run(ctx: Context, stop: CancellationToken) -> Result<(), Infallible> {
    let (keys, feeder) = cache::cache::<Secret>();
    let api = Api::<DeserializeGuard<Secret>>::namespaced(ctx.client.clone(), &ctx.namespace);
    let labelled = watcher::Config::default().labels(&format!("{}={}", labels::API_KEY, labels::TRUE));
    let following = cache::follow(api, labelled, feeder, ctx.metrics.watch());
    let reporting = cache::report(keys.clone(), ctx.events.clone(), ctx.lease.clone());
    let gathering = async {
        keys.synced().await;
        let mut changes = keys.changes();
        let mut told = Vec::new();
        loop {
            changes.mark_unchanged();
            let (gathered, faults) = gather(&keys.all());
            tell(&ctx.events, &faults, &told);
            told = faults;
            let pause = match write(&ctx, &gathered).await {
                Ok(()) => LOOK_AGAIN,
                Err(error) => {
                    ctx.metrics.commons_failed(CommonsPart::ApiKeys);
                    tracing::warn!(%error, "gathering API keys");
                    TRY_AGAIN
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(pause) => {}
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = async { tokio::join!(following, reporting, gathering); } => {}
    }
    Ok(())
}

/// A Secret that is labelled as an API key and is none.
#[derive(Clone, Debug, PartialEq)]
struct Fault {
    secret: ObjectReference,
    why: &'static str,
}

/// Tells its owner of each fault that was not told before: a key that opens nothing looks like any other.
fn tell(events: &Events, faults: &[Fault], told: &[Fault]) {
    for Fault { secret, why } in faults.iter().filter(|fault| !told.contains(fault)) {
        let name = secret.name.as_deref().unwrap_or_default();
        tracing::warn!(secret = name, why, "leaving out an API key");
        let note =
            format!("this API key opens nothing, the others go on: {why}; make it with kubectl koinon apikey create");
        events.tell(secret.clone(), Severity::Warning, Reason::Undecodable, note);
    }
}

/// The keys that make sense, by name, and what is wrong with the others.
fn gather(secrets: &[Arc<Secret>]) -> (Vec<ApiKey>, Vec<Fault>) {
    let (mut keys, mut faults) = (Vec::new(), Vec::new());
    for secret in secrets {
        match key(secret) {
            Ok(key) => keys.push(key),
            Err(why) => faults.push(Fault { secret: secret.object_ref(&()), why }),
        }
    }
    keys.sort();
    (keys, faults)
}

fn key(secret: &Secret) -> Result<ApiKey, &'static str> {
    let text = |entry: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(entry))?;
        std::str::from_utf8(&bytes.0).ok().map(str::trim)
    };
    let hash = text("hash").ok_or("it has no entry `hash`")?;
    if format!("sha256:{hash}").parse::<Digest>().is_err() {
        return Err("its `hash` is not 64 lower case hex digits");
    }
    let listed = text("namespaces").ok_or("it has no entry `namespaces`")?;
    let listed = listed.split(',').map(str::trim).filter(|name| !name.is_empty());
    let namespaces: Result<Vec<String>, _> =
        listed.map(|name| name.parse::<Namespace>().map(|name| name.to_string())).collect();
    let namespaces = namespaces.map_err(|_| "its `namespaces` is not a comma list of namespaces")?;
    Ok(ApiKey { name: secret.name_any(), hash: hash.to_owned(), namespaces })
}

async fn write(ctx: &Context, keys: &[ApiKey]) -> Result<(), GatherError> {
    let json = serde_json::to_vec(keys)?;
    let api = Api::<Secret>::namespaced(ctx.client.clone(), &ctx.namespace);
    let late = |doing| move |_| GatherError::Timeout(doing);
    let failed = |doing| move |source| GatherError::Api { doing, source: Box::new(source) };
    let read = tokio::time::timeout(ctx.write_timeout(), api.get_opt(labels::API_KEYS_SECRET));
    let stored = read.await.map_err(late("reading"))?.map_err(failed("reading"))?;
    if stored.and_then(|secret| secret.data?.remove(ENTRY)).is_some_and(|stored| stored.0 == json) {
        return Ok(());
    }
    let secret = Secret {
        metadata: ObjectMeta { name: Some(labels::API_KEYS_SECRET.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([(ENTRY.to_owned(), ByteString(json))])),
        ..Secret::default()
    };
    let fence = ctx.lease.guard()?;
    let params = PatchParams::apply(&names::field_manager("apikeys")).force();
    let patch = Patch::Apply(&secret);
    let applied = tokio::time::timeout(ctx.write_timeout(), api.patch(labels::API_KEYS_SECRET, &params, &patch));
    let applied = fence.within(async { applied.await.map_err(late("writing")) }).await;
    match applied {
        Ok(applied) => {
            applied.map_err(failed("writing"))?;
            tracing::info!(keys = keys.len(), "gathered the API keys for the gateway");
            Ok(())
        }
        Err(Fenced::Failed(error)) => Err(error),
        Err(Fenced::Ended) => Err(GatherError::Timeout("writing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, data: &[(&str, &str)]) -> Arc<Secret> {
        let data = data.iter().map(|(entry, text)| ((*entry).to_owned(), ByteString(text.as_bytes().to_vec())));
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Arc::new(Secret { metadata, data: Some(data.collect()), ..Secret::default() })
    }

    #[test]
    fn keys_are_gathered_in_the_order_of_their_names() {
        let (one, two) = (Digest::of(b"one").hex(), Digest::of(b"two").hex());
        let secrets = [
            secret("b", &[("hash", &two), ("namespaces", "lab")]),
            secret("a", &[("hash", &format!("{one}\n")), ("namespaces", "team, other,")]),
        ];
        let (keys, faults) = gather(&secrets);
        assert_eq!(
            keys,
            [
                ApiKey { name: "a".into(), hash: one, namespaces: vec!["team".into(), "other".into()] },
                ApiKey { name: "b".into(), hash: two, namespaces: vec!["lab".into()] },
            ]
        );
        assert_eq!(faults, []);
    }

    #[test]
    fn a_key_that_makes_no_sense_is_left_out_and_named_and_the_others_stay() {
        let good = Digest::of(b"good").hex();
        let secrets = [
            secret("no-hash", &[("namespaces", "team")]),
            secret("upper", &[("hash", &good.to_uppercase()), ("namespaces", "team")]),
            secret("path", &[("hash", &good), ("namespaces", "../team")]),
            secret("good", &[("hash", &good), ("namespaces", "team")]),
        ];
        let (keys, faults) = gather(&secrets);
        assert_eq!(keys.into_iter().map(|key| key.name).collect::<Vec<_>>(), ["good"]);
        let named: Vec<_> = faults.into_iter().map(|fault| fault.secret.name.unwrap()).collect();
        assert_eq!(named, ["no-hash", "upper", "path"]);
    }

    #[test]
    fn the_owner_of_a_key_that_makes_no_sense_is_told_once_and_again_when_it_is_spoilt_otherwise() {
        let metrics = crate::metrics::Metrics::register(&prometheus::Registry::new()).unwrap();
        let (events, mut queue) = Events::new(metrics);
        let good = Digest::of(b"good").hex();
        let (_, faults) = gather(&[secret("bare", &[("hash", &good)]), secret("empty", &[])]);
        tell(&events, &faults, &[]);
        let first = queue.try_recv().unwrap();
        assert_eq!((first.reason, first.severity), (Reason::Undecodable, Severity::Warning));
        assert_eq!((first.about.kind.as_deref(), first.about.name.as_deref()), (Some("Secret"), Some("bare")));
        assert!(first.note.contains("no entry `namespaces`") && first.note.contains("apikey create"), "{}", first.note);
        assert_eq!(queue.try_recv().unwrap().about.name.as_deref(), Some("empty"));

        let (_, still) = gather(&[secret("bare", &[("hash", "zz")]), secret("empty", &[])]);
        tell(&events, &still, &faults);
        let again = queue.try_recv().unwrap();
        assert!(again.note.contains("64 lower case hex digits"), "{}", again.note);
        assert!(queue.try_recv().is_err(), "what is wrong with the other is known");
    }
}
