//! Nodes on loopback with real TLS, whose commons are a replica in memory.
#![allow(dead_code, missing_docs)] // each test file uses its own part

pub mod raw;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use koinon_core::body::Body;
use koinon_core::body::charter::Preset;
use koinon_core::body::entry::LogResume;
use koinon_core::body::latest::Beacon;
use koinon_core::dsse::{Envelope, Signer};
use koinon_core::founding::Founding;
use koinon_core::ids::{CoopId, Digest, Endpoint, MemberId, PublicKey, Seq, StatementId, UnixMicros, UnixSeconds};
use koinon_core::log::{self, Replica};
use koinon_core::statement::{Audience, Draft, Position, Statement};
use koinon_core::testkit::{self, Person, T0};
use koinon_net::client::{Dialler, News, PeerAddress, PeerEvent, Proxies};
use koinon_net::commons::{Access, Commons, CommonsError, Entry, Heads, Latest};
use koinon_net::endpoint::PeerEndpoint;
use koinon_net::limits::{Limits, Timing};
use koinon_net::tls::{self, Alpn, CertUse, LeafName, LeafResolver, TlsIdentity};
use koinon_net::wire::{JoinAccepted, JoinRefusal, JoinRefused, JoinRequest};
use koinon_net::{Clock, PeerService};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Fast enough for tests, slow enough for a machine that is busy with other tests.
pub fn timing() -> Timing {
    Timing {
        connect: Duration::from_secs(3),
        handshake: Duration::from_secs(3),
        answer: Duration::from_secs(3),
        body: Duration::from_secs(1),
        ping: Duration::from_millis(200),
        silence: Duration::from_secs(3),
        reader: Duration::from_secs(2),
        idle: Duration::from_secs(4),
        unknown: Duration::from_secs(1),
        goodbye: Duration::from_millis(300),
        backoff_min: Duration::from_millis(50),
        backoff_max: Duration::from_millis(200),
    }
}

pub fn key_of(person: &Person) -> PublicKey {
    person.operator.public_key()
}

/// Three founders and their cooperative.
pub struct League {
    pub coop: CoopId,
    pub founding: Founding,
}

impl League {
    pub fn new(names: &[&str]) -> Self {
        let people: Vec<Person> = names.iter().map(|name| testkit::person(name)).collect();
        let people: Vec<&Person> = people.iter().collect();
        let founding = testkit::found(&people, testkit::charter(&people, Preset::Trial));
        League { coop: founding.coop(), founding }
    }
}

/// The commons of one test node.
pub struct Store {
    pub coop: CoopId,
    pub replica: Mutex<Replica>,
    pub latest: Mutex<Vec<(Audience, Latest)>>,
    pub access: Mutex<BTreeMap<PublicKey, Access>>,
    pub invites: Mutex<BTreeMap<String, Invite>>,
    pub documents: Mutex<BTreeMap<StatementId, Arc<Envelope>>>,
    /// While false, entries that are delivered are lost, as when an API server is down.
    pub stores: AtomicBool,
    pub changes: watch::Sender<u64>,
}

/// What a test sponsor answers to a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Invite {
    Open,
    UsedBy(PublicKey),
    Refused(JoinRefusal),
}

impl Store {
    fn new(league: &League) -> Self {
        Store {
            coop: league.coop,
            replica: Mutex::new(Replica::new(&league.founding, log::Limits::default())),
            latest: Mutex::default(),
            access: Mutex::default(),
            invites: Mutex::default(),
            documents: Mutex::default(),
            stores: AtomicBool::new(true),
            changes: watch::Sender::new(0),
        }
    }

    pub fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    pub fn allow(&self, key: PublicKey, access: Access) {
        self.access.lock().unwrap().insert(key, access);
        self.changed();
    }

    pub fn insert(&self, statement: Statement) {
        self.replica.lock().unwrap().insert(statement).unwrap();
        self.changed();
    }

    pub fn len_of(&self, log: &PublicKey) -> usize {
        self.replica.lock().unwrap().range(log, Seq(0), usize::MAX).len()
    }

    pub fn latest(&self, to: Audience, statement: &Statement) {
        let latest = Latest { id: statement.id(), envelope: Arc::new(statement.envelope().clone()) };
        self.latest.lock().unwrap().push((to, latest));
        self.changed();
    }
}

fn entry_of(statement: &Statement) -> Entry {
    Entry {
        log: statement.header().key,
        seq: statement.log_seq().unwrap(),
        id: statement.id(),
        envelope: Arc::new(statement.envelope().clone()),
    }
}

impl Commons for Store {
    fn access(&self, key: &PublicKey) -> Access {
        self.access.lock().unwrap().get(key).cloned().unwrap_or(Access::Unknown)
    }

    fn heads(&self) -> Heads {
        self.replica.lock().unwrap().heads()
    }

    fn holds(&self, id: &StatementId) -> bool {
        self.replica.lock().unwrap().contains(id)
    }

    fn range<'a>(
        &'a self,
        log: &'a PublicKey,
        from: Seq,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Entry>, CommonsError>> {
        let range = self.replica.lock().unwrap().range(log, from, limit);
        Box::pin(async move { Ok(range.iter().map(|statement| entry_of(statement)).collect()) })
    }

    fn forks(&self) -> Vec<Entry> {
        let replica = self.replica.lock().unwrap();
        let at = |proof: &log::ForkProof| {
            let found = replica.range(&proof.log, proof.seq, 2);
            found.into_iter().filter(|s| s.log_seq() == Some(proof.seq)).map(|s| entry_of(&s)).collect::<Vec<_>>()
        };
        replica.forks().flat_map(at).collect()
    }

    fn document<'a>(&'a self, id: &'a StatementId) -> BoxFuture<'a, Result<Option<Arc<Envelope>>, CommonsError>> {
        let found = self.documents.lock().unwrap().get(id).cloned();
        Box::pin(async move { Ok(found) })
    }

    fn latest_for(&self, reader: &MemberId) -> Vec<Latest> {
        let latest = self.latest.lock().unwrap();
        latest.iter().filter(|(to, _)| to.includes(reader)).map(|(_, latest)| latest.clone()).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn join<'a>(
        &'a self,
        key: &'a PublicKey,
        request: JoinRequest,
    ) -> BoxFuture<'a, Result<JoinAccepted, JoinRefused>> {
        Box::pin(async move {
            let refused = |reason| JoinRefused { reason, message: "as the test wants".to_owned() };
            let statement =
                Statement::verify(request.application).map_err(|_| refused(JoinRefusal::ApplicationInvalid))?;
            if statement.coop() != self.coop {
                return Err(refused(JoinRefusal::WrongCooperative));
            }
            if !statement.signers().any(|signer| signer == key) {
                return Err(refused(JoinRefusal::WrongKey));
            }
            let accepted = {
                let mut invites = self.invites.lock().unwrap();
                match invites.get_mut(&request.secret) {
                    None => Err(refused(JoinRefusal::InviteUnknown)),
                    Some(Invite::Refused(reason)) => Err(refused(*reason)),
                    Some(Invite::UsedBy(other)) if other != key => Err(refused(JoinRefusal::InviteUsed)),
                    Some(invite) => {
                        *invite = Invite::UsedBy(*key);
                        Ok(JoinAccepted { application: statement.id() })
                    }
                }
            }?;
            self.allow(*key, Access::Applicant);
            Ok(accepted)
        })
    }
}

/// A member with its endpoint and its dialler.
pub struct Node {
    pub person: Person,
    pub store: Arc<Store>,
    pub service: Arc<PeerService>,
    pub dialler: Dialler,
    pub address: SocketAddr,
    pub clock: Arc<AtomicI64>,
    pub events: Arc<Mutex<Vec<PeerEvent>>>,
    /// While locked, nobody takes what peers say.
    pub pause: Arc<tokio::sync::Mutex<()>>,
    pub stop: CancellationToken,
    own: Mutex<Vec<Statement>>,
    coop: CoopId,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Node {
    pub async fn start(league: &League, name: &str) -> Node {
        Self::start_with(league, name, Limits::default(), timing(), Proxies::none()).await
    }

    pub async fn start_with(league: &League, name: &str, limits: Limits, timing: Timing, proxies: Proxies) -> Node {
        let person = testkit::person(name);
        let clock = Arc::new(AtomicI64::new(T0.0));
        let store = Arc::new(Store::new(league));
        let identity = identity(&person, league.coop, CertUse::Peer, &clock);
        let service = PeerService::new(store.clone(), identity, limits, timing);
        let endpoint = PeerEndpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), service.clone()).await.unwrap();
        let address = endpoint.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(endpoint.run(stop.clone()));
        let (dialler, mut news) = Dialler::new(service.clone(), proxies, 16);
        let events = Arc::new(Mutex::new(Vec::new()));
        let pause = Arc::new(tokio::sync::Mutex::new(()));
        let (taking, into, paused) = (store.clone(), events.clone(), pause.clone());
        tokio::spawn(async move {
            while let Some(event) = news.recv().await {
                let _go = paused.lock().await;
                if let News::Entry(statement) = &event.news
                    && taking.stores.load(Ordering::Relaxed)
                {
                    let _ = taking.replica.lock().unwrap().insert((**statement).clone());
                    taking.changed();
                }
                into.lock().unwrap().push(event);
            }
        });
        let (own, coop) = (Mutex::default(), league.coop);
        Node { person, store, service, dialler, address, clock, events, pause, stop, own, coop }
    }

    pub fn key(&self) -> PublicKey {
        key_of(&self.person)
    }

    pub fn endpoint(&self) -> Endpoint {
        format!("https://127.0.0.1:{}", self.address.port()).parse().unwrap()
    }

    /// Lets `other` read here as a member.
    pub fn knows(&self, other: &Node) {
        self.store.allow(other.key(), Access::Member(other.person.id()));
    }

    /// Reads from exactly these, dialling those that are given as reachable.
    pub fn reads(&self, reachable: &[&Node], others: &[&Node]) {
        let address = |endpoints| PeerAddress { endpoints, gateways: vec![], protocol: Alpn::Peer };
        let mut peers: BTreeMap<_, _> =
            reachable.iter().map(|node| (node.key(), address(vec![node.endpoint()]))).collect();
        peers.extend(others.iter().map(|node| (node.key(), address(Vec::new()))));
        self.dialler.set_peers(peers);
    }

    /// The next entry of the own log.
    pub fn entry(&self) -> Statement {
        let own = self.own.lock().unwrap();
        let prev = own.last().map_or(self.coop.0, |last| last.id().0);
        self.entry_at(own.len() as u64, prev, 0)
    }

    /// An entry of the own log at any place; `note` makes it differ from another there.
    pub fn entry_at(&self, seq: u64, prev: Digest, note: u8) -> Statement {
        let body = Body::LogResume(LogResume { old_log: PublicKey([note; 32]), old_head: None });
        self.person.entry(self.coop, T0, seq, prev, body)
    }

    /// Appends `count` entries to the own log.
    pub fn append(&self, count: usize) {
        for _ in 0..count {
            let entry = self.entry();
            self.store.insert(entry.clone());
            self.own.lock().unwrap().push(entry);
        }
    }

    /// Publishes a beacon to `to`.
    pub fn beacon(&self, seq: u64, to: Audience) -> Statement {
        let statement = beacon(&self.person, self.coop, seq, to.clone());
        self.store.latest(to, &statement);
        statement
    }

    /// How many of the recorded events `wanted` counts.
    pub fn count(&self, wanted: impl Fn(&PeerEvent) -> bool) -> usize {
        self.events.lock().unwrap().iter().filter(|event| wanted(event)).count()
    }

    /// Entries of `log` that were delivered, however often.
    pub fn delivered(&self, log: &PublicKey) -> usize {
        self.count(|event| matches!(&event.news, News::Entry(s) if s.header().key == *log))
    }

    pub fn ups(&self, from: &PublicKey) -> usize {
        self.count(|event| event.from == *from && matches!(event.news, News::Up))
    }

    /// The categories of all ends of sessions with `from`.
    pub fn downs(&self, from: &PublicKey) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let down = |event: &PeerEvent| match &event.news {
            News::Down { reason } if event.from == *from => Some(format!("{}: {reason}", reason.category())),
            _ => None,
        };
        events.iter().filter_map(down).collect()
    }

    /// Ids of the Latest statements that were heard from `from`.
    pub fn heard(&self, from: &PublicKey) -> Vec<StatementId> {
        let events = self.events.lock().unwrap();
        let latest = |event: &PeerEvent| match &event.news {
            News::Latest(statement) if event.from == *from => Some(statement.id()),
            _ => None,
        };
        events.iter().filter_map(latest).collect()
    }
}

pub fn beacon(person: &Person, coop: CoopId, seq: u64, to: Audience) -> Statement {
    let body = Body::Beacon(Box::new(Beacon {
        heads: BTreeMap::new(),
        policy: BTreeMap::new(),
        rules_supported: vec![1],
        clock_micros: UnixMicros(0),
    }));
    let subject = "beacon".parse().unwrap();
    let position = Position::Latest { subject, seq: Seq(seq), to, not_after: UnixSeconds(T0.0 + 3600) };
    let (author, site) = (person.id(), person.member.site.name.clone());
    Draft { coop: Some(coop), author, site, issued_at: T0, position, body }.sign(&person.operator, &[]).unwrap()
}

pub fn identity(person: &Person, coop: CoopId, cert_use: CertUse, clock: &Arc<AtomicI64>) -> TlsIdentity {
    let now = UnixSeconds(clock.load(Ordering::Relaxed));
    let leaf = tls::issue(&person.operator, &LeafName { coop, member: person.id(), cert_use }, now).unwrap();
    let clock = clock.clone();
    TlsIdentity {
        resolver: LeafResolver::with(&leaf).unwrap(),
        coop,
        clock: Clock::from_fn(move || UnixSeconds(clock.load(Ordering::Relaxed))),
    }
}

/// Waits until `done`, or fails with `what`.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited 30 s in vain for: {what}");
}

/// Waits a while in which nothing may happen.
pub async fn a_while() {
    tokio::time::sleep(Duration::from_millis(600)).await;
}
