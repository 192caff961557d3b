//! Invites that do not hold, as the applicant's own cluster says it: a second release beside the first, which applies.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use koinon_core::body::Body;
use koinon_core::body::member::{Application, Endpoints, Member, MemberKeys, Site};
use koinon_core::dsse::{SeedSigner, Signer as _};
use koinon_core::ids::{CoopId, Digest, PolicyHash};
use koinon_core::invite::Invite;
use koinon_core::statement::{Draft, Position};
use koinon_e2e::story::RELEASE_NAMESPACE;
use koinon_e2e::toolchain::checkout;
use koinon_e2e::{Datacenter, Fleet};
use koinon_net::Clock;
use koinon_net::client::{JoinError, JoinSession, Proxies, Sponsor};
use koinon_net::limits::{Limits, Timing};
use koinon_net::tls::{CertUse, LeafName, LeafResolver, TlsIdentity, issue};
use koinon_net::wire::{JoinRefusal, JoinRequest};
use serde_json::json;

use crate::people::now;
use koinon_e2e::ground::{Ground, and_then_cleaned, delete, ground, refused as condition_refused};

/// The applicant's release and its namespace.
const APPLICANT: &str = "koinon-applicant";
/// The id under which it applies.
pub const MEMBER: &str = "dublin";

/// A new invite for the applicant, from aarhus.
async fn invite(ground: &Ground) -> Result<Invite> {
    let printed = ground.koinon("aarhus", &["invite", MEMBER]).await?;
    let line = printed.lines().find(|line| line.starts_with("koinon-invite-1.")).context("no invite was printed")?;
    Ok(Invite::from_line(line)?)
}

/// Applies with `invite` from the applicant's release and waits for the reason of its condition; then takes it all back.
async fn applied(ground: &Ground, at: &Datacenter, invite: &Invite, reason: &str) -> Result<String> {
    let keys = ground.stage.desk(APPLICANT).join("keys");
    let line = invite.to_line();
    let endpoint = format!("https://{}:7943", at.spec().address);
    let args = [
        "join",
        "--invite",
        &line,
        "--member",
        MEMBER,
        "--owner",
        "Dublin Compute",
        "--region",
        "eu-west",
        "--jurisdiction",
        "IE",
        "--peer-endpoint",
        &endpoint,
        "--no-passphrase",
        "--release-namespace",
        APPLICANT,
        "--keys",
        keys.to_str().context("the desk's path is not text")?,
    ];
    ground.koinon(at.name(), &args).await?;
    let said = condition_refused(at, &["kcoop", "cooperative", "--namespace", APPLICANT], "Joined", reason).await;
    // It never was a member of anything, so nothing may hold up its end.
    let cleaned = async {
        delete(at, &["kcoop", "cooperative", "--namespace", APPLICANT]).await?;
        delete(at, &["secret", "koinon-invite", "--namespace", APPLICANT]).await
    };
    let cleaned = cleaned.await;
    let mut words = String::new();
    let found = said.map(|said| words = said).with_context(|| format!("applying with what should end in {reason}"));
    and_then_cleaned(found, cleaned)?;
    Ok(words)
}

/// Uses an invite over a real connection, as an operator with a key of its own.
pub async fn use_up(invite: &Invite, seed: u8) -> Result<Result<(), JoinRefusal>> {
    let (person, operator) = (SeedSigner::from_seed(&[seed; 32]), SeedSigner::from_seed(&[seed + 1; 32]));
    let member = Member {
        id: MEMBER.parse()?,
        owner: "Dublin Compute".parse()?,
        control_group: MEMBER.parse()?,
        site: Site { name: "main".parse()?, region: "eu-west".parse()?, jurisdiction: "IE".parse()? },
        keys: MemberKeys {
            recovery: vec![SeedSigner::from_seed(&[seed + 2; 32]).public_key()],
            governance: vec![person.public_key()],
            operator: operator.public_key(),
        },
        endpoints: Endpoints { peer: Vec::new(), gateway: Vec::new() },
    };
    let draft = Draft {
        coop: Some(invite.coop),
        author: member.id.clone(),
        site: member.site.name.clone(),
        issued_at: now()?,
        position: Position::Human,
        body: Body::Application(Box::new(Application { member: member.clone() })),
    };
    let application = draft.sign(&person, &[&operator])?.envelope().clone();
    let name = LeafName { coop: invite.coop, member: member.id, cert_use: CertUse::Peer };
    let resolver = LeafResolver::with(&issue(&operator, &name, now()?)?)?;
    let identity = TlsIdentity { resolver, coop: invite.coop, clock: Clock::system() };
    let sponsor = Sponsor { endpoints: invite.endpoints.clone(), key: invite.operator_key };
    let request = JoinRequest { secret: invite.secret.clone(), application };
    // A sponsor ends the connections of a key whose standing changes, as that of a stranger who has just applied.
    let mut tries = 3;
    loop {
        let session =
            JoinSession::connect(&sponsor, &identity, &Proxies::none(), Limits::default(), Timing::default()).await?;
        tries -= 1;
        match session.apply(&request).await {
            Ok(_) => return Ok(Ok(())),
            Err(JoinError::Refused(refused)) => return Ok(Err(refused.reason)),
            Err(error) if tries == 0 => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Used, expired, foreign, unknown, and of a history that somebody cut short.
pub async fn refused(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let (aarhus, at) = (ground.member("aarhus")?, ground.member(&ground.idle)?);
    let image = ground.stage.values(&ground.idle)?["image"].clone();
    let values = json!({"image": image, "agent": {"enabled": false}});
    at.helm_install(APPLICANT, APPLICANT, &checkout().join("charts/koinon"), &values).await?;
    let result = all(ground, aarhus, at).await;
    let cleaned = async {
        at.helm(["uninstall", APPLICANT, "--namespace", APPLICANT]).await?;
        delete(at, &["namespace", APPLICANT]).await?;
        delete(aarhus, &["kprop", &format!("admit-{MEMBER}"), "--namespace", RELEASE_NAMESPACE]).await?;
        ground.all_fresh().await
    };
    and_then_cleaned(result, cleaned.await)
}

async fn all(ground: &Ground, aarhus: &Datacenter, at: &Datacenter) -> Result<()> {
    let good = invite(ground).await?;

    let unknown = Invite { secret: "never-given-to-anybody".to_owned(), ..good.clone() };
    let said = applied(ground, at, &unknown, "InviteRefused").await?;
    ensure!(said.contains("ask whoever sent it for a new one"), "InviteRefused says: {said}");

    let foreign = Invite { coop: CoopId(Digest([9; 32])), ..good.clone() };
    applied(ground, at, &foreign, "InviteForeign").await?;

    // Whoever comes first has it; the second, with another key, is told so.
    ensure!(use_up(&good, 40).await? == Ok(()), "a good application was not taken");
    ensure!(use_up(&good, 40).await? == Ok(()), "the same application was not taken again, as after a lost answer");
    ensure!(use_up(&good, 50).await? == Err(JoinRefusal::InviteUsed), "another operator used the same invite");
    let said = applied(ground, at, &good, "InviteUsed").await?;
    ensure!(said.contains("another operator has used this invite"), "InviteUsed says: {said}");

    let ended = invite(ground).await?;
    let past = STANDARD.encode((now()?.0 - 10).to_string());
    let patch = json!({"data": {"expiresAt": past}}).to_string();
    let secret = format!("koinon-invite-{MEMBER}");
    aarhus
        .kubectl(["patch", "secret", &secret, "--namespace", RELEASE_NAMESPACE, "--type=merge", "--patch", &patch])
        .await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let said = applied(ground, at, &ended, "InviteExpired").await?;
    ensure!(said.contains("ask for a new one"), "InviteExpired says: {said}");

    let cut_short = Invite { membership_head: PolicyHash(Digest([8; 32])), ..invite(ground).await? };
    let said = applied(ground, at, &cut_short, "HistoryTruncated").await?;
    ensure!(said.contains("sha256:0808"), "HistoryTruncated should name the head that is missing, it says: {said}");
    Ok(())
}
