//! What is left in the metrics of operators that have decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use koinon_e2e::Fleet;
use koinon_e2e::ground::{ground, metrics, operator_metric};
use koinon_e2e::story::MEMBERS;
use koinon_e2e::story::RELEASE_NAMESPACE;
use koinon_e2e::story::look::{get, items, text};

/// The port of the operator's metrics.
pub const METRICS: u16 = 9090;
/// What no proposal is in once everything is decided.
const GOES_ON: [&str; 5] = ["Pending", "Open", "Closing", "Queued", "AwaitingSlot"];

/// Every operator tells the same decisions, nobody is cut off, and nothing is proved against anybody.
pub async fn shown(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    for member in MEMBERS {
        let datacenter = ground.member(member)?;
        for state in GOES_ON {
            operator_metric(datacenter, &format!("koinon_proposals{{state=\"{state}\"}}"), 0.0).await?;
        }
        let found = metrics(datacenter, "operator", METRICS).await?;
        let value = |sample: &str| found.get(sample).copied().with_context(|| format!("{member} shows no {sample}"));
        let list = get(datacenter, &["kprop", "--namespace", RELEASE_NAMESPACE]).await?;
        // What a checkpoint has settled is still shown, and no longer counted.
        let (mut states, mut settled): (BTreeMap<&str, f64>, BTreeMap<&str, f64>) = Default::default();
        for proposal in items(&list) {
            let conditions = proposal["status"]["conditions"].as_array().into_iter().flatten();
            let is_settled = conditions.clone().any(|one| one["type"] == "Anchored" && one["reason"] == "Settled");
            let counted = if is_settled { &mut settled } else { &mut states };
            *counted.entry(text(&proposal["status"], "state")).or_default() += 1.0;
        }
        // The cases before have each left some.
        for state in ["Enacted", "Rejected", "Withdrawn", "Cancelled"] {
            let (told, listed) = (
                value(&format!("koinon_proposals{{state=\"{state}\"}}"))?,
                states.get(state).copied().unwrap_or_default(),
            );
            let ever = listed + settled.get(state).copied().unwrap_or_default();
            ensure!(
                told == listed && ever > 0.0,
                "{member} counts {told} proposals as {state} and lists {listed} of {ever}"
            );
        }
        for (sample, wanted) in [
            ("koinon_isolated", 0.0),
            // The last decision was everybody's.
            ("koinon_turnout_thousandths", 1000.0),
            ("koinon_evidence{kind=\"fork\"}", 0.0),
            ("koinon_evidence{kind=\"two_close_seals\"}", 0.0),
            ("koinon_evidence{kind=\"two_enact_seals\"}", 0.0),
            // Three owners with a seat each: two hold more than a third and more than a half, and nobody holds more than another.
            ("koinon_nakamoto_owners{of=\"members\",part=\"third\"}", 2.0),
            ("koinon_nakamoto_owners{of=\"members\",part=\"half\"}", 2.0),
            ("koinon_concentration_thousandths{measure=\"hhi\",of=\"members\"}", 0.0),
            ("koinon_concentration_thousandths{measure=\"gini\",of=\"members\"}", 0.0),
        ] {
            let seen = value(sample)?;
            ensure!(seen == wanted, "{sample} of {member} is {seen}, not {wanted}");
        }
        let counted = value("koinon_votes{verdict=\"Counted\"}")?;
        ensure!(counted >= 9.0, "{member} counts {counted} votes since the checkpoint and on what is open");
        let votes = get(datacenter, &["kvote", "--namespace", RELEASE_NAMESPACE]).await?;
        let ever = items(&votes).iter().filter(|vote| vote["status"]["counted"] == true).count();
        ensure!(ever >= 20, "{member} shows {ever} votes as counted, also of what is settled");
        for other in MEMBERS {
            let sealed = value(&format!("koinon_last_seal_timestamp_seconds{{member=\"{other}\"}}"))?;
            let age = now()? - sealed;
            ensure!((0.0..600.0).contains(&age), "{member} says that {other} sealed last {age} s ago");
            if other != member {
                let offset = value(&format!("koinon_clock_offset_seconds{{member=\"{other}\"}}"))?;
                ensure!(offset.abs() < 5.0, "{member} says that the clock of {other} is {offset} s off on one machine");
            }
        }
    }
    Ok(())
}

/// The time as metrics tell it.
pub fn now() -> Result<f64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Ok(since.context("this machine's clock is before 1970")?.as_secs_f64())
}
