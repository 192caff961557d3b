//! When each home was last heard to renew what it holds here.
//!
//! In memory by the monotonic clock; in a Lease for a restart, from where it counts on by the time of day. The stored
//! time lags by up to a quarter of a lease, so a copy may lapse that much early after a restart, and never late.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use koinon_api::names;
use koinon_core::ids::{MemberId, Seconds, UnixSeconds};
use kube::api::Api;

use super::reader::{ReadError, read};
use super::writer::{WriteError, Writer};
use crate::context::Context;
use crate::kinds::placement_home::Now;

#[derive(Clone, Copy, Debug, Default)]
struct Renewal {
    /// By the monotonic clock, where this process heard it.
    heard: Option<Duration>,
    /// What the Lease said when it was read.
    stored: Option<UnixSeconds>,
    /// When the Lease was last written by this process.
    written: Option<Duration>,
}

/// The last renewal of every home.
#[derive(Clone, Debug)]
pub struct Renewals {
    api: Api<Lease>,
    namespace: String,
    writer: Writer,
    homes: BTreeMap<MemberId, Renewal>,
}

impl Renewals {
    /// Those of this release.
    #[must_use]
    pub fn new(ctx: &Context, writer: Writer) -> Self {
        let api = Api::namespaced(ctx.client.clone(), &ctx.namespace);
        Self { api, namespace: ctx.namespace.clone(), writer, homes: BTreeMap::new() }
    }

    /// Reads what an earlier process stored about `home`; once.
    ///
    /// # Errors
    /// When it cannot be read. Until it is, nothing of `home` may be taken for lapsed.
    pub async fn load(&mut self, home: &MemberId) -> Result<(), ReadError> {
        if self.homes.contains_key(home) {
            return Ok(());
        }
        let lease = read("the Lease of a home", self.api.get_opt(&names::home_lease(home.as_str()))).await?;
        let stored = lease.and_then(|lease| lease.spec?.renew_time).map(|time| UnixSeconds(time.0.as_second()));
        self.homes.insert(home.clone(), Renewal { stored, ..Renewal::default() });
        Ok(())
    }

    /// A newer list of `home` was heard and carried out.
    ///
    /// # Errors
    /// When the Lease is due and cannot be written; what is in memory holds.
    pub async fn renewed(
        &mut self,
        home: &MemberId,
        heard: Duration,
        lease: Seconds,
        now: Now,
    ) -> Result<(), WriteError> {
        let renewal = self.homes.entry(home.clone()).or_default();
        renewal.heard = renewal.heard.max(Some(heard));
        let quarter = Duration::from_secs(u64::try_from(lease.0).unwrap_or(1).max(4) / 4);
        if renewal.written.is_some_and(|written| now.monotonic.saturating_sub(written) < quarter) {
            return Ok(());
        }
        let at = last(renewal, now).unwrap_or(now.unix);
        self.writer.apply(&self.api, &object(&self.namespace, home, at, lease)).await?;
        if let Some(renewal) = self.homes.get_mut(home) {
            renewal.written = Some(now.monotonic);
        }
        Ok(())
    }

    /// When `home` last renewed, by this host's clock.
    #[must_use]
    pub fn last(&self, home: &MemberId, now: Now) -> Option<UnixSeconds> {
        last(self.homes.get(home)?, now)
    }

    /// Whether what was stored about `home` is known.
    #[must_use]
    pub fn knows(&self, home: &MemberId) -> bool {
        self.homes.contains_key(home)
    }
}

fn last(renewal: &Renewal, now: Now) -> Option<UnixSeconds> {
    // Counted back from now by the monotonic clock, a time of day that was set forward lapses nothing.
    let heard = renewal.heard.map(|heard| {
        let ago = now.monotonic.saturating_sub(heard).as_secs();
        now.unix.minus(Seconds(i64::try_from(ago).unwrap_or(i64::MAX)))
    });
    heard.max(renewal.stored)
}

fn object(namespace: &str, home: &MemberId, at: UnixSeconds, lease: Seconds) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(names::home_lease(home.as_str())),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "koinon".to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(home.to_string()),
            lease_duration_seconds: i32::try_from(lease.0).ok(),
            renew_time: Timestamp::from_second(at.0).ok().map(MicroTime),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(unix: i64, monotonic: u64) -> Now {
        Now { unix: UnixSeconds(unix), monotonic: Duration::from_secs(monotonic) }
    }

    #[test]
    fn a_clock_that_is_set_forward_lapses_nothing() {
        let renewal = Renewal { heard: Some(Duration::from_secs(100)), ..Renewal::default() };
        assert_eq!(last(&renewal, now(1_000, 105)), Some(UnixSeconds(995)));
        assert_eq!(last(&renewal, now(90_000, 106)), Some(UnixSeconds(89_994)));
    }

    #[test]
    fn after_a_restart_it_counts_on_from_what_was_stored() {
        let renewal = Renewal { stored: Some(UnixSeconds(990)), ..Renewal::default() };
        assert_eq!(last(&renewal, now(1_000, 2)), Some(UnixSeconds(990)));
        assert_eq!(last(&Renewal::default(), now(1_000, 2)), None);
    }
}
