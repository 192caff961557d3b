//! What Prometheus saw of it all: facts that hold or the story fails, and figures for whoever reads along.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use tokio::task::JoinHandle;

use super::Narrator;
use super::gpus::GPUS;
use super::stage::{MEMBERS, Stage};
use crate::fleet::Fleet;
use crate::servers::{Prometheus, Sample, Target};
use crate::wait::{Poll, wait_until};

/// The parts that every member runs: operator, agent, gateway and weights cache.
const PARTS: usize = 4;
/// How often pods are looked for that were replaced and have another address now.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A replaced operator leads again within its lease of 15 s, and is scraped soon after.
const PATIENCE: Duration = Duration::from_secs(60);
/// The votes of the story: one admits bilbao, two admit cork, three approve the model.
const VOTES: usize = 1 + 2 + 3;

/// Ends following when the story does.
pub struct Following(JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a Prometheus that scrapes every part of every member, also those that take the place of others later.
pub async fn scrape(stage: &Stage) -> Result<(Arc<Prometheus>, Following)> {
    let fleet = stage.fleet.clone();
    let targets = wait_until("every part of every member to run", PATIENCE, || async {
        match parts(&fleet).await {
            Ok(found) if found.len() >= PARTS * MEMBERS.len() => Poll::Ready(found),
            Ok(found) => Poll::not_yet(format!("{} of {} parts run", found.len(), PARTS * MEMBERS.len())),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    let prometheus = Arc::new(Prometheus::start(&stage.fleet, &targets).await?);
    let followed = prometheus.clone();
    let following = tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            // An API server, or a Prometheus, that does not answer for a moment is asked again.
            if let Ok(found) = parts(&fleet).await {
                let _ = followed.retarget(&found).await;
            }
        }
    });
    Ok((prometheus, Following(following)))
}

/// Every part of every member, where its pod is now.
async fn parts(fleet: &Fleet) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for datacenter in fleet.datacenters() {
        let pods: Api<Pod> = Api::all(datacenter.client());
        for pod in pods.list(&ListParams::default().labels("app.kubernetes.io/part-of=koinon")).await? {
            let labels = pod.metadata.labels.unwrap_or_default();
            let component = labels.get("app.kubernetes.io/component").map(String::as_str).unwrap_or_default();
            let port = match component {
                "operator" => 9090,
                "agent" => 9091,
                "gateway" => 9092,
                "weights" => 9093,
                _ => continue,
            };
            let status = pod.status.unwrap_or_default();
            let running = status.phase.as_deref() == Some("Running") && pod.metadata.deletion_timestamp.is_none();
            let Some(address) = status.pod_ip.filter(|_| running) else { continue };
            targets.push(Target {
                job: format!("koinon-{component}"),
                datacenter: datacenter.name().to_owned(),
                address: format!("{address}:{port}").parse().context("reading a pod's address")?,
            });
        }
    }
    Ok(targets)
}

/// Something that has to be so: a question to which Prometheus gives one answer for each time that it is.
struct Fact {
    what: String,
    question: String,
    answers: usize,
}

impl Fact {
    /// The question for all values, whether it is so or not.
    fn without_condition(&self) -> &str {
        let found = CONDITIONS.iter().find_map(|condition| self.question.rsplit_once(condition));
        found.map_or(self.question.as_str(), |(values, _)| values)
    }
}

/// How questions ask for what has to be so.
const CONDITIONS: [&str; 3] = [" == ", " > ", " < "];

/// What has to be so at the end. Whatever was so at some time only is asked over all that Prometheus ever scraped: `[1d]`.
fn facts() -> Vec<Fact> {
    let members = MEMBERS.len();
    let (peers, hosts, logs) = (members * (members - 1), GPUS.len(), members * members);
    let fact =
        |what: &str, answers: usize, question: &str| Fact { what: what.into(), question: question.into(), answers };
    let mut facts = vec![
        fact("every member has one leader", members, "sum by (datacenter) (koinon_leader) == 1"),
        fact("every member is connected to its two peers", peers, "max by (datacenter, member) (koinon_peer_up) == 1"),
        fact(
            "every member heard its two peers within 60 s",
            peers,
            "time() - max by (datacenter, member) (koinon_peer_last_seen_timestamp_seconds) < 60",
        ),
        fact("every member keeps three logs", logs, "max by (datacenter, member) (koinon_log_bytes) > 0"),
        fact("no entry of them is missing", logs, "max by (datacenter, member) (koinon_log_gaps) == 0"),
        fact("none of them forked", logs, "max by (datacenter, member) (koinon_forks_total) == 0"),
        fact("clocks agree to the second", peers, "max by (datacenter, member) (abs(koinon_clock_offset_seconds)) < 1"),
        fact(
            &format!("every member counts all {VOTES} votes"),
            members,
            &format!("max by (datacenter) (koinon_votes{{verdict=\"Counted\"}}) == {VOTES}"),
        ),
        fact(
            "both hosts fetched the weights",
            hosts,
            "max by (datacenter) (max_over_time(koinon_weights_fetched_bytes_total[1d])) > 0",
        ),
        fact(
            "both hosts held a lease of aarhus",
            hosts,
            "max by (datacenter) (max_over_time(koinon_lease_remaining_seconds{home=\"aarhus\"}[1d])) > 0",
        ),
        fact(
            "a copy was ready at both hosts",
            hosts,
            "max by (datacenter) (max_over_time(koinon_placements{side=\"host\",state=\"Ready\"}[1d])) > 0",
        ),
        fact(
            "aarhus had a copy to route to, and never two at a time",
            1,
            "max by (datacenter) (max_over_time(koinon_gateway_routes{datacenter=\"aarhus\"}[1d])) == 1",
        ),
    ];
    for (member, _, installed, offered) in GPUS {
        // A replaced operator is another target: each pool and class counts once, whoever told of it.
        let most = format!("max_over_time(koinon_pool_devices{{datacenter=\"{member}\",state=\"installed\"}}[1d])");
        let question = format!("sum by (datacenter) (max by (datacenter, pool, class) ({most})) == {installed}");
        facts.push(fact(&format!("{member} had {installed} GPUs installed"), 1, &question));
        // Between the pool and its first lease may lie less than a scrape, so what is leased counts as having been offered.
        let shared = format!("koinon_pool_devices{{datacenter=\"{member}\",state=~\"offered|leased\"}}");
        let at_once = format!("max by (datacenter) (sum by (datacenter, instance) ({shared}))");
        let question = format!("max_over_time({at_once}[1h:1s]) == {offered}");
        facts.push(fact(&format!("{member} had {offered} GPUs offered or leased"), 1, &question));
    }
    facts
}

/// What the story shows of Prometheus at its end.
const QUESTIONS: [(&str, &str); 8] = [
    ("members by liveness", "sum by (datacenter, state) (koinon_member_state) > 0"),
    ("offered GPUs by member", "sum by (datacenter, class) (koinon_pool_devices{state=\"offered\"})"),
    ("age of each offer", "max by (datacenter, member) (koinon_offer_age_seconds)"),
    ("proposals by state", "sum by (datacenter, state) (koinon_proposals) > 0"),
    ("votes by what became of them", "sum by (datacenter, verdict) (koinon_votes) > 0"),
    ("placements by side and state", "sum by (datacenter, side, state) (koinon_placements) > 0"),
    ("requests by member and code", "sum by (datacenter, member, code) (koinon_gateway_requests_total)"),
    ("tokens", "sum by (datacenter, kind) (koinon_gateway_tokens_total)"),
];

/// Asks Prometheus' own query API whether the facts hold, and shows members, offers, votes, placements, requests and tokens.
pub async fn evidence(prometheus: &Prometheus, narrator: &Narrator) -> Result<()> {
    narrator.step("What Prometheus saw");
    let parts = PARTS * MEMBERS.len();
    let up = Fact { what: format!("all {parts} parts are scraped"), question: "up == 1".into(), answers: parts };
    for fact in std::iter::once(up).chain(facts()) {
        let shown = format!("Prometheus to show that {}", fact.what);
        let answers = wait_until(&shown, PATIENCE, || async {
            match prometheus.query(&fact.question).await {
                Ok(answers) if answers.len() == fact.answers => Poll::Ready(answers),
                Ok(answers) => {
                    let (count, question) = (answers.len(), &fact.question);
                    let seen = prometheus.query(fact.without_condition()).await.unwrap_or_default();
                    let seen = seen.iter().map(line).collect::<Vec<_>>().join("; ");
                    Poll::not_yet(format!("{count} of {} answers to {question} among: {seen}", fact.answers))
                }
                Err(error) => Poll::not_yet(format!("{error:#}")),
            }
        });
        let values = span(&answers.await?);
        narrator.observed(&format!("{}: {} is {values}, {}", fact.what, fact.question, times(fact.answers)));
    }
    for (what, question) in QUESTIONS {
        let answers = prometheus.wait_for(question, PATIENCE).await?;
        narrator.say(&format!("{what}: {question}"));
        answers.iter().for_each(|sample| narrator.show(&line(sample)));
    }
    Ok(())
}

/// A sample as a line.
fn line(sample: &Sample) -> String {
    let labels: Vec<String> = sample.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{:<60} {}", labels.join(" "), sample.value)
}

fn times(count: usize) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// The smallest and the largest value.
fn span(samples: &[Sample]) -> String {
    let values = || samples.iter().map(|sample| sample.value);
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    if least == most { format!("{least}") } else { format!("{least:.3} to {most:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_can_fail() {
        for fact in facts() {
            assert!(fact.answers > 0, "{}", fact.what);
            // Without a condition any value would do.
            assert!(fact.without_condition().len() < fact.question.len(), "{}: {}", fact.what, fact.question);
        }
    }

    #[test]
    fn values_are_told_as_one_or_as_a_span() {
        let sample = |value| Sample { labels: Default::default(), value };
        assert_eq!(span(&[sample(7.0), sample(7.0)]), "7");
        assert_eq!(span(&[sample(0.25), sample(-1.0)]), "-1.000 to 0.250");
    }
}
