//! A second cooperative, founded by two with one charter under the preset for real owners, and what two of them sponsor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use koinon_core::body::charter::Preset;
use koinon_core::dsse::Envelope;
use koinon_core::founding::Founding;
use koinon_core::invite::Invite;
use koinon_e2e::story::look::{get, items, name, poll, text};
use koinon_e2e::toolchain::checkout;
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use serde_json::json;

use crate::invites::{MEMBER as APPLICANT, use_up};
use koinon_e2e::ground::{Ground, and_then_cleaned, conditions, delete, ground, settled};
use koinon_e2e::said::{Said, refused, said};

/// The founders' releases and their namespace.
const RELEASE: &str = "koinon-founders";
/// The founders, and in whose clusters their releases stand.
const FOUNDERS: [(&str, &str); 2] = [("espoo", "bilbao"), ("faro", "cork")];
/// The port of their operators on the wire; the shared cooperative's have 7443.
const PORT: u16 = 7943;
/// Two operators hear each other, and one says that it hears a quorum; their beacons are ten seconds apart.
const FOUNDED: Duration = Duration::from_secs(60);

/// One founder and its cluster.
struct Founder<'a> {
    ground: &'a Ground,
    id: &'static str,
    at: &'static str,
}

impl Founder<'_> {
    /// `kubectl koinon …` as this founder types it.
    async fn said(&self, args: &[&str]) -> Result<Said> {
        let keys = self.keys();
        let mine = ["--release-namespace", RELEASE, "--keys", text_of(&keys)?];
        said(self.ground, self.at, &[args, &mine].concat()).await
    }

    /// The same, of what has to be done.
    async fn does(&self, args: &[&str]) -> Result<Said> {
        let said = self.said(args).await?;
        ensure!(said.done, "{} at {} failed: {}", args.join(" "), self.id, said.err);
        Ok(said)
    }

    /// The same, of what has to be refused.
    async fn cannot(&self, args: &[&str], says: &str) -> Result<String> {
        let keys = self.keys();
        let mine = ["--release-namespace", RELEASE, "--keys", text_of(&keys)?];
        refused(self.ground, self.at, &[args, &mine].concat(), says).await
    }

    fn keys(&self) -> PathBuf {
        self.ground.stage.desk(self.id).join("keys")
    }

    /// `found` with what describes this founder.
    fn found<'s>(&'s self, endpoint: &'s str, further: &[&'s str]) -> Vec<&'s str> {
        let (owner, region, country) =
            if self.id == "espoo" { ("Espoo Oy", "eu-north", "FI") } else { ("Faro Lda", "eu-south", "PT") };
        let flags = ["found", "--member", self.id, "--owner", owner, "--region", region, "--jurisdiction", country];
        let own = ["--preset", "standard", "--no-passphrase", "--peer-endpoint", endpoint];
        [&flags[..], &own, further].concat()
    }

    fn endpoint(&self) -> Result<String> {
        Ok(format!("https://{}:{PORT}", self.ground.member(self.at)?.spec().address))
    }
}

fn text_of(path: &Path) -> Result<&str> {
    path.to_str().context("a path of the desk is not text")
}

/// Two founders, two signatures, two operators that hear each other; then one proposal with two sponsors; then one leaves.
pub async fn founded(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let image = ground.stage.values("bilbao")?["image"].clone();
    let service = json!({"service": {"type": "NodePort", "nodePort": PORT}});
    let values = json!({"image": image, "agent": {"enabled": false}, "peer": service});
    let chart = checkout().join("charts/koinon");
    let installs = FOUNDERS.map(|(_, at)| {
        let (chart, values) = (&chart, &values);
        async move { ground.member(at)?.helm_install(RELEASE, RELEASE, chart, values).await }
    });
    futures::future::try_join_all(installs).await?;
    let [espoo, faro] = FOUNDERS.map(|(id, at)| Founder { ground, id, at });
    let result = async {
        charter(&espoo, &faro).await?;
        members(&espoo, &faro).await?;
        sponsored(&espoo, &faro).await?;
        left(&espoo, &faro).await
    };
    let result = result.await;
    let cleaned = async {
        // Both to their ends, whatever becomes of one: what is still being removed would outlive the clusters.
        let removals = FOUNDERS.map(|(_, at)| async move { removed(ground.member(at)?).await });
        futures::future::join_all(removals).await.into_iter().collect::<Result<()>>()?;
        ground.all_fresh().await?;
        ground.story_still_served().await
    };
    and_then_cleaned(result, cleaned.await)
}

/// Takes a founder's release out of a cluster, with what a release leaves on purpose.
async fn removed(at: &Datacenter) -> Result<()> {
    at.helm(["uninstall", RELEASE, "--namespace", RELEASE, "--wait"]).await?;
    // No operator is left to wind up a membership that ends at once in both clusters.
    for cooperative in at.kubectl(["get", "kcoop", "--namespace", RELEASE, "--output", "name"]).await?.lines() {
        let free = r#"{"metadata": {"finalizers": null}}"#;
        at.kubectl(["patch", cooperative, "--namespace", RELEASE, "--type=merge", "--patch", free]).await?;
    }
    let gates = "validatingadmissionpolicies,validatingadmissionpolicybindings";
    let left = at.kubectl(["get", gates, "--output", "name"]).await?;
    let suffix = format!(".{RELEASE}");
    let ours: Vec<&str> = left.lines().filter(|line| line.ends_with(&suffix)).collect();
    if !ours.is_empty() {
        delete(at, &ours).await?;
    }
    delete(at, &["namespace", RELEASE]).await
}

fn read(charter: &Path) -> Result<Envelope> {
    let written = std::fs::read_to_string(charter).with_context(|| format!("reading {}", charter.display()))?;
    Ok(serde_yaml::from_str(&written)?)
}

/// Describe, write, sign, apply: in that order and no other.
async fn charter(espoo: &Founder<'_>, faro: &Founder<'_>) -> Result<()> {
    let desk = espoo.ground.stage.desk("founders");
    std::fs::create_dir_all(&desk).with_context(|| format!("making {}", desk.display()))?;
    let (charter, described) = (desk.join("charter.yaml"), desk.join("faro.yaml"));
    let (charter_file, described_file) = (text_of(&charter)?, text_of(&described)?);
    let (ours, theirs) = (espoo.endpoint()?, faro.endpoint()?);

    let description = faro.does(&faro.found(&theirs, &["--describe"])).await?;
    std::fs::write(&described, &description.out)?;
    espoo.cannot(&espoo.found(&ours, &["--with", described_file]), "needs all their signatures").await?;
    let wrote = espoo.does(&espoo.found(&ours, &["--with", described_file, "--out", charter_file])).await?;
    ensure!(wrote.out.contains("kubectl koinon found --co-sign"), "the next step is not named: {}", wrote.out);

    // One signature of two is none, wherever it is applied, and a stranger's is not the second.
    let unsigned = "has every founder signed it?";
    espoo.cannot(&espoo.found(&ours, &["--charter", charter_file]), unsigned).await?;
    faro.cannot(&faro.found(&theirs, &["--charter", charter_file]), unsigned).await?;
    ensure!(Founding::verify(read(&charter)?).is_err(), "a charter holds without its second founder");
    let keys = espoo.ground.stage.desk("bilbao").join("keys");
    let co_sign = ["found", "--co-sign", charter_file, "--keys", text_of(&keys)?];
    let half = read(&charter)?;
    refused(espoo.ground, espoo.at, &co_sign, "is no founder's governance key").await?;
    ensure!(read(&charter)? == half, "a stranger's signature was written into the charter");

    let signed = faro.does(&["found", "--co-sign", charter_file]).await?;
    ensure!(signed.out.contains("next, every founder runs: kubectl koinon found"), "{}", signed.out);
    let founding = Founding::verify(read(&charter)?).context("the charter with both signatures does not hold")?;
    let founders: Vec<&str> = founding.charter().founders.iter().map(|founder| founder.id.as_str()).collect();
    ensure!(founders.len() == 2 && founders.contains(&"espoo") && founders.contains(&"faro"), "{founders:?}");
    ensure!(founding.charter().preset == Preset::Standard, "the preset is {:?}", founding.charter().preset);

    // Each founder applies it; whoever is none cannot.
    let mut nobody = espoo.found(&ours, &["--charter", charter_file]);
    nobody[2] = "nobody";
    espoo.cannot(&nobody, "nobody is not among the charter's founders").await?;
    for (founder, endpoint) in [(espoo, &ours), (faro, &theirs)] {
        let applied = founder.does(&founder.found(endpoint, &["--charter", charter_file])).await?;
        ensure!(applied.out.contains(&format!("founded {} as {}", founding.coop(), founder.id)), "{}", applied.out);
        founder.cannot(&founder.found(endpoint, &["--charter", charter_file]), "is a member of").await?;
    }
    Ok(())
}

/// Both operators are members of it, and hear each other.
async fn members(espoo: &Founder<'_>, faro: &Founder<'_>) -> Result<()> {
    for founder in [espoo, faro] {
        let at = founder.ground.member(founder.at)?;
        let cooperative = ["kcoop", "cooperative", "--namespace", RELEASE];
        settled(at, &cooperative, "Joined", "True", "Founded", FOUNDED).await?;
        settled(at, &cooperative, "Ready", "True", "Ready", FOUNDED).await?;
        let list = get(at, &["kmem", "--namespace", RELEASE]).await?;
        let seen: Vec<(&str, &str)> = items(&list).iter().map(|m| (name(m), text(&m["status"], "state"))).collect();
        ensure!(seen == [("espoo", "Active"), ("faro", "Active")], "{} knows {seen:?}", founder.id);
    }
    Ok(())
}

/// An applicant for whom one member's word is not enough.
async fn sponsored(espoo: &Founder<'_>, faro: &Founder<'_>) -> Result<()> {
    let (here, there) = (espoo.ground.member(espoo.at)?, espoo.ground.member(faro.at)?);
    let invited = espoo.does(&["invite", APPLICANT]).await?;
    ensure!(invited.err.contains("the charter wants 2 sponsors"), "the invite names no next step: {}", invited.err);
    let line = invited.out.lines().find(|line| line.starts_with("koinon-invite-1.")).context("no invite")?;
    let taken = use_up(&Invite::from_line(line)?, 60).await?;
    ensure!(taken.is_ok(), "the application was not taken: {taken:?}");
    let draft = format!("admit-{APPLICANT}");
    wait_until("the application at its sponsor", Duration::from_secs(30), || {
        poll(here, &["kprop", &draft, "--namespace", RELEASE], |_| Poll::Ready(()))
    })
    .await?;

    let file = espoo.ground.stage.desk("founders").join("admit.yaml");
    let path = text_of(&file)?;
    let alone = espoo.cannot(&["propose", "--from", &draft], "the charter wants 2 members as sponsors").await?;
    ensure!(alone.contains("kubectl koinon propose --co-sign"), "the refusal names no way: {alone}");
    let wrote = espoo.does(&["propose", "--from", &draft, "--out", path]).await?;
    ensure!(wrote.out.contains(&format!("propose --co-sign {path}")), "the next step is not named: {}", wrote.out);
    espoo.cannot(&["propose", "--signed", path], "the charter wants 2 members as sponsors").await?;
    espoo.cannot(&["propose", "--co-sign", path], "this member's own proposal").await?;
    let signed = faro.does(&["propose", "--co-sign", path]).await?;
    ensure!(signed.out.contains(&format!("it admits {APPLICANT}; both sponsors vouch for it")), "{}", signed.out);
    ensure!(signed.out.contains("send the file back to espoo"), "{}", signed.out);
    faro.cannot(&["propose", "--signed", path], "send the file there").await?;
    let proposed = espoo.does(&["propose", "--signed", path]).await?;
    let line = proposed.out.lines().find_map(|line| line.strip_prefix("proposed ")).context("nothing was proposed")?;
    let proposal = line.split_whitespace().next().context("the proposal has no name")?;

    // Its vote opens tomorrow; both know it, the draft is gone, and nobody can vote today.
    for at in [here, there] {
        let what = format!("{proposal} to be known in {}", at.name());
        wait_until(&what, FOUNDED, || {
            poll(at, &["kprop", proposal, "--namespace", RELEASE], |seen| {
                let state = text(&seen["status"], "state");
                Poll::<()>::when(state == "Pending", format!("{state} {}", conditions(seen)))
            })
        })
        .await?;
    }
    let drafts = here.kubectl(["get", "kprop", &draft, "--namespace", RELEASE, "--ignore-not-found"]).await?;
    ensure!(drafts.is_empty(), "the draft stays beside its proposal: {drafts}");
    faro.cannot(&["vote", proposal, "yes"], "the vote opens at").await.map(drop)
}

/// One says that it leaves: nobody votes on it, both list it as gone, and its id is never given again.
async fn left(espoo: &Founder<'_>, faro: &Founder<'_>) -> Result<()> {
    let asked = faro.does(&["leave"]).await?;
    ensure!(asked.out.contains("Run again with --yes"), "leave does it without being told twice: {}", asked.out);
    let said = faro.does(&["leave", "--reason", "our building is sold", "--yes"]).await?;
    ensure!(said.out.contains("faro asks to leave; watch: "), "{}", said.out);
    for founder in [espoo, faro] {
        let at = founder.ground.member(founder.at)?;
        wait_until(&format!("faro to be gone at {}", founder.id), FOUNDED, || {
            poll(at, &["kmem", "faro", "--namespace", RELEASE], |seen| {
                let state = text(&seen["status"], "state");
                Poll::<()>::when(state == "Left", format!("{state} {}", conditions(seen)))
            })
        })
        .await?;
    }
    faro.cannot(&["propose", "remove-engine", "llama-cpp"], "only an Active member proposes").await?;
    espoo.cannot(&["invite", "faro"], "belongs or belonged to a member").await.map(drop)
}
