//! Step 7: the host's wire is cut and mended.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Narrator;
use super::calling::{Call, Caller};
use super::look::{get, items, poll, text};
use super::serving::{Copy, GUEST_NAMESPACE, routable, the_copy};
use super::stage::{RELEASE_NAMESPACE, Stage, TEAM};
use crate::datacenter::Datacenter;
use crate::wait::Poll;

/// Suspect, Lost, placed elsewhere under a higher epoch, mended, fenced, drained.
pub async fn cut_and_mend(stage: &Stage, narrator: &Narrator, caller: &Caller) -> Result<Copy> {
    narrator
        .step("The host's wire is cut; the job moves under a higher epoch; the wire is mended and the old copy fenced");
    let aarhus = stage.member("aarhus")?;
    let old = the_copy(aarhus).await?;
    let host = stage.member(&old.host)?;
    narrator
        .wait_until(
            "aarhus to renew its grant, since one that was never renewed lapses",
            Duration::from_secs(60),
            || renewed(host),
        )
        .await?;
    host.cut()?;
    narrator.say(&format!("the wire of {} is cut; epoch {} ran there", old.host, old.epoch));
    for liveness in ["Suspect", "Lost"] {
        narrator
            .wait_until(&format!("aarhus to call {} {liveness}", old.host), Duration::from_secs(120), || {
                poll(aarhus, &["kmem", &old.host, "--namespace", RELEASE_NAMESPACE], |member| {
                    called(text(&member["status"], "liveness"), liveness)
                })
            })
            .await?;
    }
    narrator.kubectl(aarhus, ["get", "kmem", "--namespace", RELEASE_NAMESPACE]).await?;
    let new = narrator
        .wait_until("the job to be routed to another member", Duration::from_secs(180), || moved(aarhus, &old))
        .await?;
    ensure!(new.host != old.host && new.epoch > old.epoch, "the job went from {old:?} to {new:?}");
    narrator.kubectl(aarhus, ["get", "kjob,kpl", "--namespace", TEAM]).await?;
    let answered = narrator
        .wait_until("the application's calls to succeed again", Duration::from_secs(30), || async {
            match caller.calls().last() {
                Some(Call { answer: Ok((member, epoch)), .. }) if *member == new.host => Poll::Ready(*epoch),
                Some(call) => Poll::not_yet(format!("{:?}", call.answer)),
                None => Poll::not_yet("no call"),
            }
        })
        .await?;
    ensure!(answered == new.epoch, "epoch {answered} answered, not {}", new.epoch);
    let kept = get(host, &["pod", "--namespace", GUEST_NAMESPACE]).await?;
    ensure!(!items(&kept).is_empty(), "{} ended its copy during the cut, though its grant says KeepServing", old.host);
    narrator.observed(&format!("meanwhile the old copy went on at {}, and nothing was routed to it", old.host));
    host.mend()?;
    narrator.say(&format!("the wire of {} is mended", old.host));
    narrator
        .wait_until(&format!("{} to drain its old copy", old.host), Duration::from_secs(120), || async {
            match get(host, &["pod", "--namespace", GUEST_NAMESPACE]).await {
                Ok(pods) => Poll::<()>::when(items(&pods).is_empty(), format!("{} pods", items(&pods).len())),
                Err(error) => Poll::not_yet(format!("{error:#}")),
            }
        })
        .await?;
    narrator.kubectl(host, ["get", "kpl,pod", "--namespace", GUEST_NAMESPACE]).await?;
    ensure!(routable(aarhus).await? == [new.clone()], "the route changed when the wire was mended");
    never_backwards(&caller.calls())?;
    narrator.observed(&format!(
        "epoch {} at {} took over from epoch {} at {}; no answer ever came from an older epoch than one before",
        new.epoch, new.host, old.epoch, old.host
    ));
    Ok(new)
}

/// Whether a member is called what is waited for. Lost comes after Suspect: one that was never Suspect will not be any more.
fn called(seen: &str, wanted: &str) -> Poll<()> {
    match seen {
        "Lost" if wanted == "Suspect" => Poll::Never("it was called Lost without ever being called Suspect".to_owned()),
        _ => Poll::<()>::when(seen == wanted, seen),
    }
}

/// Whether the host heard its guest's home after it granted.
async fn renewed(host: &Datacenter) -> Poll<()> {
    let granted = poll(host, &["kpl", "--namespace", GUEST_NAMESPACE], |placements| {
        let times =
            items(placements).iter().map(|placement| text(&placement["metadata"], "creationTimestamp").to_owned());
        times.max().map_or(Poll::not_yet("there is no placement"), Poll::Ready)
    });
    let granted = match granted.await {
        Poll::Ready(granted) => granted,
        Poll::NotYet(seen) => return Poll::NotYet(seen),
        Poll::Never(why) => return Poll::Never(why),
    };
    poll(host, &["lease", "koinon-home-aarhus", "--namespace", RELEASE_NAMESPACE], |lease| {
        // Both are RFC 3339 in UTC; to the second they compare as text.
        let renewed = text(&lease["spec"], "renewTime");
        Poll::<()>::when(renewed.get(..19) > granted.get(..19), format!("renewed {renewed}, granted {granted}"))
    })
    .await
}

async fn moved(aarhus: &Datacenter, old: &Copy) -> Poll<Copy> {
    match routable(aarhus).await {
        Ok(copies) if copies.len() > 1 => Poll::Never(format!("two copies are routable: {copies:?}")),
        Ok(copies) => match copies.into_iter().next() {
            Some(copy) if copy != *old => Poll::Ready(copy),
            Some(copy) => Poll::not_yet(format!("still epoch {} at {}", copy.epoch, copy.host)),
            None => Poll::not_yet("no copy is routable"),
        },
        Err(error) => Poll::not_yet(format!("{error:#}")),
    }
}

/// Fails if an answer came from an older epoch than one before it: then the gateway would have routed to two.
pub fn never_backwards(calls: &[Call]) -> Result<()> {
    let mut newest = 0;
    for (member, epoch) in calls.iter().filter_map(|call| call.answer.as_ref().ok()) {
        ensure!(*epoch >= newest, "epoch {epoch} ({member}) answered after epoch {newest}");
        newest = *epoch;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn calls(epochs: &[i64]) -> Vec<Call> {
        epochs.iter().map(|epoch| Call { at: Instant::now(), answer: Ok(("bilbao".to_owned(), *epoch)) }).collect()
    }

    #[test]
    fn a_member_is_suspect_before_it_is_lost() {
        assert!(matches!(called("Fresh", "Suspect"), Poll::NotYet(seen) if seen == "Fresh"));
        assert!(matches!(called("Suspect", "Suspect"), Poll::Ready(())));
        assert!(matches!(called("Lost", "Suspect"), Poll::Never(_)));
        assert!(matches!(called("Suspect", "Lost"), Poll::NotYet(_)));
        assert!(matches!(called("Lost", "Lost"), Poll::Ready(())));
    }

    #[test]
    fn an_older_epoch_after_a_newer_one_is_noticed() {
        assert!(never_backwards(&calls(&[1, 1, 2, 2])).is_ok());
        assert!(never_backwards(&calls(&[1, 2, 1])).is_err());
    }
}
