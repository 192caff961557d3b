//! A log that forked: whoever holds a member's operator key signs a second entry at a position that is taken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::BoxFuture;
use koinon_core::body::entry::Head;
use koinon_core::dsse::{Envelope, SeedSigner, Signer as _};
use koinon_core::ids::{CoopId, MemberId, PublicKey, Seq, StatementId};
use koinon_core::statement::{Draft, Position, Statement};
use koinon_e2e::story::RELEASE_NAMESPACE;
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use koinon_net::client::{Dialler, PeerAddress, Proxies};
use koinon_net::commons::{Access, Commons, CommonsError, Entry, Heads, Latest};
use koinon_net::limits::{Limits, Timing};
use koinon_net::tls::{Alpn, CertUse, LeafName, LeafResolver, TlsIdentity, issue};
use koinon_net::wire::{JoinAccepted, JoinRefusal, JoinRefused, JoinRequest};
use koinon_net::{Clock, PeerService};
use tokio::sync::watch;

use crate::people::{coop, entries, now, operator_key};
use koinon_e2e::ground::{Ground, ground, operator_metric, refused, scale_operator};

/// A member that shows one log to the one it talks to: its own, with another last entry than everybody else has.
struct Liar {
    log: PublicKey,
    branch: Vec<Statement>,
    reader: PublicKey,
    member: MemberId,
    changes: watch::Sender<u64>,
}

fn entry(statement: &Statement) -> Entry {
    Entry {
        log: statement.header().key,
        seq: statement.log_seq().unwrap_or_default(),
        id: statement.id(),
        envelope: Arc::new(statement.envelope().clone()),
    }
}

impl Commons for Liar {
    fn access(&self, key: &PublicKey) -> Access {
        if *key == self.reader { Access::Member(self.member.clone()) } else { Access::Unknown }
    }

    fn heads(&self) -> Heads {
        let head = |last: &Statement| Head { seq: last.log_seq().unwrap_or_default(), id: last.id() };
        self.branch.last().map(|last| (self.log, head(last))).into_iter().collect()
    }

    fn holds(&self, _: &StatementId) -> bool {
        true
    }

    fn range<'a>(
        &'a self,
        log: &'a PublicKey,
        from: Seq,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Entry>, CommonsError>> {
        let asked = self.branch.iter().filter(|one| *log == self.log && one.log_seq().is_some_and(|seq| seq >= from));
        let range = asked.take(limit).map(entry).collect();
        Box::pin(async move { Ok(range) })
    }

    fn forks(&self) -> Vec<Entry> {
        Vec::new()
    }

    fn document<'a>(&'a self, _: &'a StatementId) -> BoxFuture<'a, Result<Option<Arc<Envelope>>, CommonsError>> {
        Box::pin(async { Ok(None) })
    }

    fn latest_for(&self, _: &MemberId) -> Vec<Latest> {
        Vec::new()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn join<'a>(&'a self, _: &'a PublicKey, _: JoinRequest) -> BoxFuture<'a, Result<JoinAccepted, JoinRefused>> {
        let refused = JoinRefused { reason: JoinRefusal::Unavailable, message: "nobody joins here".to_owned() };
        Box::pin(async { Err(refused) })
    }
}

/// The same log with another last entry: the same position, the same predecessor, signed a second later.
fn other_branch(coop: CoopId, key: &SeedSigner, log: &[Statement]) -> Result<Vec<Statement>> {
    let last = log.last().context("the log is empty")?;
    let header = last.header();
    let draft = Draft {
        coop: Some(coop),
        author: header.author.clone(),
        site: header.site.clone(),
        issued_at: koinon_core::ids::UnixSeconds(header.issued_at.0 + 1),
        position: last.position().clone(),
        body: last.body().clone(),
    };
    ensure!(matches!(draft.position, Position::Log { .. }), "the last entry has no position");
    let mut branch = log[..log.len() - 1].to_vec();
    branch.push(draft.sign(key, &[])?);
    Ok(branch)
}

/// Connects to a member as the liar and lets it read until `seen`.
async fn shown(
    ground: &Ground,
    reader: &Datacenter,
    coop: CoopId,
    key: &SeedSigner,
    branch: Vec<Statement>,
    seen: impl Future<Output = Result<()>>,
) -> Result<()> {
    let reader_key = operator_key(reader).await?.public_key();
    let member: MemberId = ground.idle.parse()?;
    let leaf = issue(key, &LeafName { coop, member, cert_use: CertUse::Peer }, now()?)?;
    let identity = TlsIdentity { resolver: LeafResolver::with(&leaf)?, coop, clock: Clock::system() };
    let liar = Liar {
        log: key.public_key(),
        branch,
        reader: reader_key,
        member: reader.name().parse()?,
        changes: watch::Sender::new(0),
    };
    let service = PeerService::new(Arc::new(liar), identity, Limits::default(), Timing::default());
    let (dialler, mut events) = Dialler::new(service, Proxies::none(), 64);
    let endpoint = ground.stage.peer_endpoint(reader.name())?.parse()?;
    let address = PeerAddress { endpoints: vec![endpoint], gateways: Vec::new(), protocol: Alpn::Peer };
    dialler.set_peers(BTreeMap::from([(reader_key, address)]));
    let mut told = Vec::new();
    tokio::select! {
        seen = seen => seen.with_context(|| format!("the liar was told: {}", told.join("; "))),
        () = async { while let Some(event) = events.recv().await { told.truncate(20); told.push(format!("{:?}", event.news)); } } => {
            anyhow::bail!("the dialler ended")
        }
    }
}

/// The fork is proven, kept, and told to everybody; the member whose log it is stops signing, and nobody else does.
pub async fn forked(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let others: Vec<&str> = koinon_e2e::story::MEMBERS.into_iter().filter(|member| *member != ground.idle).collect();
    let (aarhus, idle) = (ground.member("aarhus")?, ground.member(&ground.idle)?);
    let (coop, key) = (coop(aarhus).await?, operator_key(idle).await?);
    scale_operator(idle, 0).await?;
    let mut log = entries(aarhus).await?;
    log.retain(|entry| entry.header().key == key.public_key());
    log.sort_by_key(Statement::log_seq);
    let honest = log.last().context("the log is empty")?.clone();
    let branch = other_branch(coop, &key, &log)?;
    let lie = branch.last().context("no branch")?.clone();

    let args = ["kmem", ground.idle.as_str(), "--namespace", RELEASE_NAMESPACE];
    let known = async { refused(aarhus, &args, "LogIntact", "LogForked").await.map(drop) };
    shown(ground, aarhus, coop, &key, branch, known).await?;
    let seq = honest.log_seq().unwrap_or_default();
    for member in &others {
        let datacenter = ground.member(member)?;
        let args = ["kmem", ground.idle.as_str(), "--namespace", RELEASE_NAMESPACE];
        let said = refused(datacenter, &args, "LogIntact", "LogForked").await?;
        ensure!(said.contains(&seq.to_string()), "{member} should name position {seq}, it says: {said}");
        operator_metric(datacenter, &format!("koinon_forks_total{{member=\"{}\"}}", ground.idle), 1.0).await?;
        wait_until(&format!("{member} to keep both branches"), Duration::from_secs(30), || async {
            match entries(datacenter).await {
                Ok(entries) => {
                    let kept = [&honest, &lie].map(|branch| entries.iter().any(|entry| entry.id() == branch.id()));
                    Poll::<()>::when(kept == [true, true], format!("{kept:?}"))
                }
                Err(error) => Poll::not_yet(format!("{error:#}")),
            }
        })
        .await?;
    }
    // The two others go on: what they sign is anchored and counted, and the job is served.
    let proposal = ground.propose_release("aarhus", &format!("sha256:{}", "f1".repeat(32))).await?;
    for member in &others {
        ground.proposal_is(member, &proposal, "Open").await?;
        ground.koinon(member, &["vote", &proposal, "no"]).await?;
    }
    wait_until("the two other votes to be counted", Duration::from_secs(60), || async {
        match ground.proposal_is("aarhus", &proposal, "Open").await {
            Ok(seen) => {
                let tally = &seen["status"]["tally"];
                Poll::<()>::when(tally["reject"] == 2, tally)
            }
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    ground.story_still_served().await?;
    scale_operator(idle, 1).await?;
    let args = ["kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE];
    let said = refused(idle, &args, "Signing", "LogForked").await?;
    ensure!(said.contains(&seq.to_string()), "{} should name position {seq}, it says: {said}", ground.idle);
    Ok(())
}
