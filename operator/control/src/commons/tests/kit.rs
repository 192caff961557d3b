//! Operators for tests, and what people do to them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use koinon_core::body::charter::{Parameters, Preset};
use koinon_core::body::proposal::Choice;
use koinon_core::body::{Action, Body, Vote};
use koinon_core::dsse::Signer;
use koinon_core::founding::Founding;
use koinon_core::ids::{CoopId, Digest, PolicyHash, PublicKey, Seconds, StatementId, UnixMicros, UnixSeconds};
use koinon_core::invite::{Invite, secret_digest};
use koinon_core::log::Limits;
use koinon_core::policy::{Phase, State};
use koinon_core::presets;
use koinon_core::statement::Statement;
use koinon_core::testkit::{self, Person};
use koinon_net::client::Proxies;
use koinon_net::wire::{JoinAccepted, JoinRefused, JoinRequest};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::commons::candidate::{Candidate, Source};
use crate::commons::engine::{Controls, Engine, Parts};
use crate::commons::invites::{self, OpenInvite, Taken};
use crate::commons::joining::{self, JoinTrouble};
use crate::commons::logs::{self, Author};
use crate::commons::node::{self, Inputs, Network, Outputs, PeerName};
use crate::commons::publisher::LatestPublisher;
use crate::commons::reach::Reach;
use crate::commons::shelf::{JoinDesk, KeptIn, Shelf};
use crate::commons::store::memory::MemoryStore;
use crate::commons::view::CommonsView;
use crate::metrics::Metrics;
use crate::peers::PeersSnapshot;

/// Long enough for a loaded machine, short enough for a person who waits for a failing test.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn now() -> UnixSeconds {
    SystemClock::default().unix()
}

/// A sponsor's desk with its invites in memory.
pub struct Desk {
    coop: koinon_core::ids::CoopId,
    invites: Mutex<Vec<OpenInvite>>,
    pub taken: Mutex<Vec<Taken>>,
}

impl JoinDesk for Desk {
    fn join<'a>(
        &'a self,
        key: &'a PublicKey,
        request: JoinRequest,
    ) -> BoxFuture<'a, Result<JoinAccepted, JoinRefused>> {
        Box::pin(async move {
            let mut invites = self.invites.lock().unwrap();
            let taken = invites::judge(&invites, &request, key, self.coop, |_| None, now())?;
            for invite in invites.iter_mut().filter(|invite| invite.name == taken.invite.name) {
                invite.used_by = Some(*key);
            }
            let application = taken.statement.id();
            self.taken.lock().unwrap().push(taken);
            Ok(JoinAccepted { application })
        })
    }
}

/// One member's operator.
pub struct Operator {
    pub person: Person,
    pub store: MemoryStore,
    pub listen: SocketAddr,
    /// How far its clock is behind.
    pub behind: Duration,
    pub running: Option<Running>,
}

/// The machine's clock, put back.
#[derive(Debug)]
struct Behind(SystemClock, Duration);

impl Clock for Behind {
    fn micros(&self) -> UnixMicros {
        UnixMicros(self.0.micros().0 - i64::try_from(self.1.as_micros()).unwrap())
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

/// A running engine.
pub struct Running {
    pub view: watch::Receiver<Option<Arc<CommonsView>>>,
    pub peers: watch::Receiver<Arc<PeersSnapshot>>,
    pub reach: watch::Receiver<Arc<Reach>>,
    pub people: watch::Sender<Arc<Vec<Candidate>>>,
    pub controls: watch::Sender<Controls>,
    pub desk: Arc<Desk>,
    pub publisher: LatestPublisher,
    pub shelf: Arc<Shelf>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Operator {
    /// An operator with an endpoint of its own on loopback.
    pub fn new(name: &str) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let mut person = testkit::person(name);
        person.member.endpoints.peer = vec![format!("https://{free}").parse().unwrap()];
        Operator { person, store: MemoryStore::default(), listen: free, behind: Duration::ZERO, running: None }
    }

    /// One that nobody can dial.
    pub fn outbound_only(name: &str) -> Self {
        let mut operator = Operator::new(name);
        operator.person.member.endpoints.peer.clear();
        operator
    }

    pub fn author(&self) -> Author {
        Author {
            me: self.person.id(),
            site: self.person.member.site.name.clone(),
            key: Arc::new(testkit::person(self.person.id().as_str()).operator),
            clock: Arc::new(Behind(SystemClock::default(), self.behind)),
            store: Arc::new(self.store.clone()),
        }
    }

    /// A desk without invites.
    pub fn desk(&self, coop: CoopId) -> Arc<Desk> {
        Arc::new(Desk { coop, invites: Mutex::default(), taken: Mutex::default() })
    }

    pub fn log(&self) -> PublicKey {
        self.person.operator.public_key()
    }

    /// Starts it on what its store holds.
    pub async fn start(&mut self, founding: &Founding, invite: Option<Invite>) {
        let author = self.author();
        let limits = Limits::default();
        let contents = logs::Contents::read(author.store.as_ref(), founding.coop(), limits).await.unwrap();
        assert!(contents.spoilt.is_empty(), "{:?}", contents.spoilt);
        let (commons, _) = contents.load(founding.clone(), limits);
        author.store.keep(founding.statement()).await.unwrap();
        let publisher = LatestPublisher::new(author.clock.clone());
        let desk = self.desk(founding.coop());
        let kept = KeptIn { store: author.store.clone(), own: author.log() };
        let shelf = Shelf::new(commons, kept, publisher.clone(), desk.clone());
        let name = PeerName::new(author.clone(), founding.coop()).unwrap();
        let parameters = founding.charter().parameters;
        let network = Network::bind(self.listen, name, shelf.clone(), &parameters, Proxies::none()).await.unwrap();
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let parts = Parts {
            author,
            shelf: shelf.clone(),
            publisher: publisher.clone(),
            invite: invite.clone(),
            lost: Default::default(),
            metrics,
        };
        let engine = Engine::new(parts);
        let (people, people_in) = watch::channel(Arc::default());
        let (controls, controls_in) = watch::channel(Controls::default());
        let (view_out, view) = watch::channel(None);
        let (peers_out, peers) = watch::channel(Arc::default());
        let (reach_out, reach) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let inputs = Inputs { people: people_in, controls: controls_in };
        let outputs = Outputs { view: view_out, peers: peers_out, reach: reach_out };
        let task = tokio::spawn(node::run(engine, network, invite, inputs, outputs, stop.clone()));
        self.running = Some(Running { view, peers, reach, people, controls, desk, publisher, shelf, stop, task });
    }

    /// Ends it between two instructions, as SIGKILL does.
    pub async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            let _ = running.task.await;
        }
        // The listener belongs to a task of its own; its end is asynchronous.
        while std::net::TcpStream::connect(self.listen).is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it in good order.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            running.task.await.unwrap();
        }
    }

    pub fn up(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub fn view(&self) -> Arc<CommonsView> {
        self.up().view.borrow().clone().unwrap()
    }

    pub fn state(&self) -> Arc<State> {
        self.view().state.clone()
    }

    /// Waits until its view is as wanted.
    pub async fn until(&self, what: &str, good: impl Fn(&CommonsView) -> bool) -> Arc<CommonsView> {
        let mut view = self.up().view.clone();
        let waiting = async {
            loop {
                if let Some(view) = view.borrow_and_update().clone().filter(|view| good(view)) {
                    return view;
                }
                view.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(view) => view,
            Err(_) => panic!("{}: not in {PATIENCE:?}: {what}; it is {:#?}", self.person.id(), brief(&self.view())),
        }
    }

    /// Waits until it may sign.
    pub async fn until_signing(&self) {
        self.until("signing", |view| view.signing == crate::commons::view::Signing::Yes).await;
    }

    /// Applies a statement, as people do with a resource of this name.
    pub fn apply(&self, name: &str, statement: &Statement) {
        let source = match statement.body() {
            Body::Proposal(_) => Source::Proposal(name.to_owned()),
            Body::Vote(_) => Source::Vote(name.to_owned()),
            _ => Source::Statement(name.to_owned()),
        };
        self.up().people.send_modify(|people| {
            let mut all = (**people).clone();
            all.push(Candidate { source: source.clone(), statement: Ok(statement.clone()) });
            *people = Arc::new(all);
        });
    }

    /// Waits until the statement that was applied under `name` stands in the log.
    pub async fn until_anchored(&self, statement: &Statement) {
        let id = statement.id();
        self.until("the statement is anchored", |view| {
            view.state.vote(&id).is_some()
                || view.state.proposals().contains_key(&id)
                || view.state.leaves().contains_key(&id)
        })
        .await;
    }

    /// Makes an invite for `member` and opens it at the desk.
    pub fn invite(&self, member: &str) -> Invite {
        let state = self.state();
        let invite = Invite {
            coop: state.coop(),
            sponsor: self.person.id(),
            operator_key: self.log(),
            endpoints: self.person.member.endpoints.peer.clone(),
            membership_head: state.head(koinon_core::body::Scope::Membership),
            member: member.parse().unwrap(),
            secret: format!("secret for {member}"),
            expires_at: now().plus(Seconds(3600)),
        };
        let open = OpenInvite {
            name: format!("koinon-invite-{member}"),
            secret: secret_digest(&invite.secret),
            member: invite.member.clone(),
            expires_at: invite.expires_at,
            used_by: None,
        };
        self.up().desk.invites.lock().unwrap().push(open);
        invite
    }

    /// Applies to the sponsor of `invite` and starts as an applicant.
    pub async fn join(&mut self, invite: &Invite) -> Result<Founding, JoinTrouble> {
        let founding = self.ask(invite).await?;
        self.start(&founding, Some(invite.clone())).await;
        Ok(founding)
    }

    /// Applies to the sponsor of `invite`.
    pub async fn ask(&self, invite: &Invite) -> Result<Founding, JoinTrouble> {
        let author = self.author();
        let name = PeerName::new(author.clone(), invite.coop).unwrap();
        let application = self.person.application(invite.coop, now());
        joining::apply(&name, &author, invite, application.envelope().clone(), &Proxies::none()).await
    }

    /// What its clock says.
    pub fn now(&self) -> UnixSeconds {
        self.author().clock.unix()
    }

    /// A proposal by this member's people.
    pub fn proposal(&self, action: Action) -> Statement {
        let state = self.state();
        let at = self.now();
        let body = state.draft_proposal(action, "A change".parse().unwrap(), Default::default(), at).unwrap();
        self.person.human(state.coop(), at, Body::Proposal(Box::new(body)))
    }

    /// A vote by this member's people.
    pub fn vote(&self, on: StatementId, choice: Choice) -> Statement {
        let vote = Vote { proposal: on, choice, vseq: 0, ground: None, reason: None };
        self.person.human(self.state().coop(), self.now(), Body::Vote(vote))
    }
}

/// What a failing test shows.
fn brief(view: &CommonsView) -> BTreeMap<&'static str, String> {
    let phases: Vec<String> = view
        .state
        .proposals()
        .values()
        .map(|p| format!("{} {:?} {:?}", p.id, view.state.phase(p, now()), p.ballot.tally))
        .collect();
    BTreeMap::from([
        ("standing", format!("{:?}", view.standing)),
        ("signing", format!("{:?}", view.signing)),
        ("members", format!("{:?}", view.state.members().keys().collect::<Vec<_>>())),
        ("proposals", format!("{phases:#?}")),
        ("verdicts", format!("{:?}", view.verdicts)),
        ("logs", format!("{:?}", view.logs)),
        ("trouble", format!("{:?}", view.store_trouble)),
    ])
}

/// A charter whose members hear each other within seconds.
pub fn quick(operators: &[&Operator]) -> Founding {
    quick_with(operators, |_| {})
}

/// The same with other parameters.
pub fn quick_with(operators: &[&Operator], change: impl FnOnce(&mut Parameters)) -> Founding {
    let people: Vec<&Person> = operators.iter().map(|operator| &operator.person).collect();
    let mut charter = testkit::charter(&people, Preset::Trial);
    charter.parameters.beacon_seconds = Seconds(1);
    charter.parameters.fresh_seconds = Seconds(4);
    charter.parameters.lost_seconds = Seconds(8);
    change(&mut charter.parameters);
    testkit::found(&people, charter)
}

/// Three founders, running and signing.
pub async fn three() -> [Operator; 3] {
    let mut operators = ["aarhus", "bilbao", "cork"].map(Operator::new);
    let founding = quick(&operators.each_ref());
    for operator in &mut operators {
        operator.start(&founding, None).await;
    }
    for operator in &operators {
        operator.until_signing().await;
    }
    operators
}

/// A model release to vote on.
pub fn release(name: &str) -> Action {
    Action::AddModelRelease(koinon_core::body::ModelRelease {
        uri: format!("hf://example/{name}").parse().unwrap(),
        revision: "main".parse().unwrap(),
        manifest_digest: koinon_core::ids::ManifestDigest(Digest::of(name.as_bytes())),
        quantization: "q4-k-m".parse().unwrap(),
        license: "Apache-2.0".parse().unwrap(),
        engines: vec![],
        memory_bytes: None,
    })
}

pub fn enacted(view: &CommonsView, proposal: &StatementId) -> Option<PolicyHash> {
    let proposal = view.state.proposals().get(proposal)?;
    match view.state.phase(proposal, now()) {
        Phase::Enacted { version } => Some(version),
        _ => None,
    }
}

/// Three founders by the complete rules, running and signing.
pub async fn three_complete() -> [Operator; 3] {
    let mut operators = ["aarhus", "bilbao", "cork"].map(Operator::new);
    let founding = quick_with(&operators.each_ref(), |parameters| {
        parameters.deliberation = Some(presets::deliberation());
    });
    for operator in &mut operators {
        operator.start(&founding, None).await;
    }
    for operator in &operators {
        operator.until_signing().await;
    }
    operators
}
