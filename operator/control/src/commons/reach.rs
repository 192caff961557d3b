//! Whether peers reach this member: nobody can see that from inside, so connected peers are asked to dial back.
//!
//! Sessions prove nothing: one connection is enough to be heard, whoever opened it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use koinon_core::ids::{Endpoint, MemberId};
use koinon_net::client::Dialler;
use koinon_net::wire::DialledBack;
use tokio::sync::watch;
use tokio::time::Instant;

use super::view::{CommonsView, Standing};

/// How often it is looked whether somebody is to be asked.
const LOOK: Duration = Duration::from_secs(2);
/// Peers that are asked in one round. More than one, because one may sit behind the same firewall.
const PEERS: usize = 3;
/// Time between rounds while every endpoint is reached.
const CALM: Duration = Duration::from_secs(300);
/// Time between rounds while one is not: somebody may be mending it. A peer dials back six times a minute at most.
const ANXIOUS: Duration = Duration::from_secs(60);
/// A miss is believed when it is still there after this time: what leads to a new leader may take a moment to notice it.
const DOUBT: Duration = Duration::from_secs(5);
/// An answer that is older says nothing any more.
const KEEP: Duration = Duration::from_secs(900);

/// What peers said of reaching this member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Where the membership says that this member's operator is reached.
    pub endpoints: Vec<Endpoint>,
    /// Where it says that its gateway is.
    pub gateways: Vec<Endpoint>,
    /// The last answer of each peer that was asked.
    pub told: BTreeMap<MemberId, Vec<DialledBack>>,
}

impl Reach {
    /// Peers that reach `endpoint`.
    pub fn reached(&self, endpoint: &Endpoint) -> impl Iterator<Item = &MemberId> {
        self.of(endpoint).filter(|(_, error)| error.is_none()).map(|(peer, _)| peer)
    }

    /// Peers that do not reach `endpoint`, and why.
    pub fn missed(&self, endpoint: &Endpoint) -> impl Iterator<Item = (&MemberId, &str)> {
        self.of(endpoint).filter_map(|(peer, error)| Some((peer, error?)))
    }

    /// Whether somebody reaches each endpoint.
    #[must_use]
    pub fn whole(&self) -> bool {
        self.endpoints.iter().chain(&self.gateways).all(|endpoint| self.reached(endpoint).next().is_some())
    }

    fn of(&self, endpoint: &Endpoint) -> impl Iterator<Item = (&MemberId, Option<&str>)> {
        let about = |(peer, dialled)| {
            let dialled: &Vec<DialledBack> = dialled;
            let one = dialled.iter().find(|one| one.endpoint == *endpoint)?;
            Some((peer, one.error.as_deref()))
        };
        self.told.iter().filter_map(about)
    }
}

/// Asks peers again and again, until the task is dropped.
pub async fn watch(
    dialler: Dialler,
    view: watch::Receiver<Option<Arc<CommonsView>>>,
    reach: watch::Sender<Arc<Reach>>,
) {
    let mut asking = Asking::default();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let shown = view.borrow().clone();
        asking.look(&dialler, shown.as_deref()).await;
        let next = asking.reach();
        reach.send_if_modified(|current| {
            let differs = **current != next;
            if differs {
                *current = Arc::new(next);
            }
            differs
        });
    }
}

/// What each peer said, and when.
type Answers = BTreeMap<MemberId, (Instant, Vec<DialledBack>)>;

#[derive(Debug, Default)]
struct Asking {
    endpoints: Vec<Endpoint>,
    gateways: Vec<Endpoint>,
    answers: Answers,
    due: Option<Instant>,
    doubted: bool,
}

impl Asking {
    async fn look(&mut self, dialler: &Dialler, view: Option<&CommonsView>) {
        let member = view.filter(|view| view.standing == Standing::Member);
        let own = member.and_then(|view| view.state.member(&view.me));
        let (endpoints, gateways) = own
            .map(|own| (own.member.endpoints.peer.clone(), own.member.endpoints.gateway.clone()))
            .unwrap_or_default();
        if (&self.endpoints, &self.gateways) != (&endpoints, &gateways) {
            *self = Asking { endpoints, gateways, ..Asking::default() };
        }
        let now = Instant::now();
        self.answers.retain(|_, (at, _)| now.duration_since(*at) < KEEP);
        let nowhere = self.endpoints.is_empty() && self.gateways.is_empty();
        let (Some(view), false) = (member, nowhere) else { return };
        if self.due.is_some_and(|due| now < due) {
            return;
        }
        let (mut asked, mut answers) = (false, BTreeMap::new());
        for key in dialler.up() {
            let Some(peer) = view.state.member_by_operator(&key) else { continue };
            asked = true;
            match dialler.dial_back(&key).await {
                Ok(dialled) => {
                    answers.insert(peer.member.id.clone(), (Instant::now(), dialled));
                }
                Err(error) => {
                    tracing::debug!(peer = %peer.member.id, error = %koinon_net::client::one_line(&error), "not dialled back");
                }
            }
            if answers.len() == PEERS {
                break;
            }
        }
        // While nobody is connected there is nobody to ask, and the first who comes is asked at once.
        if asked {
            self.due = Some(Instant::now() + self.take(answers));
        }
    }

    /// Takes the answers of one round, and says how long to wait for the next.
    fn take(&mut self, answers: Answers) -> Duration {
        if answers.is_empty() {
            return ANXIOUS;
        }
        let mut next = self.answers.clone();
        next.extend(answers);
        let whole = self.told(&next).whole();
        if !whole && !std::mem::replace(&mut self.doubted, true) {
            return DOUBT;
        }
        self.answers = next;
        if whole {
            self.doubted = false;
            return CALM;
        }
        ANXIOUS
    }

    fn reach(&self) -> Reach {
        self.told(&self.answers)
    }

    fn told(&self, answers: &Answers) -> Reach {
        let told = answers.iter().map(|(peer, (_, dialled))| (peer.clone(), dialled.clone())).collect();
        Reach { endpoints: self.endpoints.clone(), gateways: self.gateways.clone(), told }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        "https://koinon.example:7443".parse().unwrap()
    }

    fn said(error: Option<&str>) -> Answers {
        let dialled = vec![DialledBack { endpoint: endpoint(), error: error.map(str::to_owned) }];
        [("bilbao".parse().unwrap(), (Instant::now(), dialled))].into()
    }

    #[test]
    fn a_miss_is_believed_when_it_is_still_there_and_a_hit_at_once() {
        let mut asking = Asking { endpoints: vec![endpoint()], ..Asking::default() };
        assert_eq!(asking.take(said(Some("connection refused"))), DOUBT);
        assert!(asking.reach().told.is_empty(), "the Service may not have noticed the new leader yet");
        assert_eq!(asking.take(said(Some("connection refused"))), ANXIOUS);
        assert_eq!(asking.reach().missed(&endpoint()).count(), 1);
        assert_eq!(asking.take(said(None)), CALM);
        assert!(asking.reach().whole());
        assert_eq!(asking.take(said(Some("connection refused"))), DOUBT);
        assert!(asking.reach().whole(), "one miss among hits");
        assert_eq!(asking.take(Answers::new()), ANXIOUS);
    }
}
