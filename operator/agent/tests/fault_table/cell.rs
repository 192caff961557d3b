//! One cell of the table: a fault in a phase, what is expected, and what is observed.

use koinon_api::gpu_node::GPUNodeStatus;

use crate::observed;
use crate::random::Seed;
use crate::scene::{Phase, Scene, TARGET};
use crate::stage::{Needs, Stage};

/// Sound surveys before a fault strikes a node in its steady state.
const SOUND: usize = 3;

/// One way in which a fault strikes.
#[derive(Clone)]
pub struct Case {
    pub fault: &'static str,
    pub variant: &'static str,
    needs: Needs,
    strike: fn(&mut Scene),
    /// Goes on with the fault before each round, which are counted from 0.
    goes_on: fn(&mut Scene, u32),
    /// Errors that are heard before the next survey; 0 waits for a survey to be asked for. None: nothing is.
    heard: Option<u64>,
    unheard_at_start: bool,
    /// The watch fails before the next survey.
    deafens: bool,
    /// Seconds from each round under the fault to the one before.
    rounds: Vec<u64>,
    /// What is left when the fault has gone.
    mend: fn(&mut Scene),
    /// The agent had run before the start.
    ran_before: bool,
    nvml: &'static str,
    target: Said,
    others: Said,
    after: Said,
    also: fn(&Stage, &GPUNodeStatus, Phase) -> Result<(), String>,
}

/// What is expected in each phase.
#[derive(Clone, Default)]
struct Said {
    usually: String,
    unlike: Vec<(Phase, String)>,
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub fault: String,
    pub phase: &'static str,
    pub observed: String,
    pub expected: String,
    /// What else went wrong.
    pub complaints: Vec<String>,
}

impl Line {
    pub fn is_ok(&self) -> bool {
        self.observed == self.expected && self.complaints.is_empty()
    }
}

impl Said {
    fn at(&self, phase: Phase) -> String {
        let unlike = self.unlike.iter().find(|(at, _)| *at == phase);
        match (unlike, phase) {
            (Some((_, said)), _) => said.clone(),
            // Who holds a device keeps it, and nobody else gets it.
            (None, Phase::Held) => self.usually.replace(" shareable", " Held"),
            (None, _) => self.usually.clone(),
        }
    }
}

impl Case {
    /// A fault that does nothing yet, of which nothing is to be seen.
    pub fn of(fault: &'static str, variant: &'static str) -> Self {
        let well = Said { usually: "Healthy shareable".to_owned(), unlike: Vec::new() };
        Self {
            fault,
            variant,
            needs: Needs::default(),
            strike: |_| {},
            goes_on: |_, _| {},
            heard: None,
            unheard_at_start: false,
            deafens: false,
            rounds: vec![10],
            mend: |_| {},
            ran_before: false,
            nvml: "Available",
            target: well.clone(),
            others: well.clone(),
            after: well,
            also: |_, _, _| Ok(()),
        }
    }

    pub fn strikes(mut self, strike: fn(&mut Scene)) -> Self {
        self.strike = strike;
        self
    }

    pub fn goes_on(mut self, goes_on: fn(&mut Scene, u32)) -> Self {
        self.goes_on = goes_on;
        self
    }

    /// Nothing is heard any more.
    pub fn deafens(mut self) -> Self {
        (self.needs.listens, self.deafens) = (true, true);
        self
    }

    /// At the start there is nobody yet to hear.
    pub fn unheard_at_the_start(mut self) -> Self {
        self.unheard_at_start = true;
        self
    }

    /// So many errors are heard before the next survey.
    pub fn heard(mut self, errors: u64) -> Self {
        self.needs.listens = true;
        self.heard = Some(errors);
        self
    }

    pub fn hangs(mut self) -> Self {
        self.needs.hangs = true;
        self
    }

    pub fn rounds(mut self, after: &[u64]) -> Self {
        self.rounds = after.to_vec();
        self
    }

    pub fn leaves(mut self, mend: fn(&mut Scene)) -> Self {
        self.mend = mend;
        self
    }

    /// At the start the agent had run before, and its node had been sound.
    pub fn ran_before(mut self) -> Self {
        self.ran_before = true;
        self
    }

    pub fn nvml(mut self, nvml: &'static str) -> Self {
        self.nvml = nvml;
        self
    }

    pub fn target(mut self, said: &str) -> Self {
        self.target.usually = said.to_owned();
        self
    }

    pub fn target_at(mut self, phase: Phase, said: &str) -> Self {
        self.target.unlike.push((phase, said.to_owned()));
        self
    }

    pub fn others(mut self, said: &str) -> Self {
        self.others.usually = said.to_owned();
        self
    }

    pub fn others_at(mut self, phase: Phase, said: &str) -> Self {
        self.others.unlike.push((phase, said.to_owned()));
        self
    }

    /// The target once the fault has gone.
    pub fn after(mut self, said: &str) -> Self {
        self.after.usually = said.to_owned();
        self
    }

    pub fn after_at(mut self, phase: Phase, said: &str) -> Self {
        self.after.unlike.push((phase, said.to_owned()));
        self
    }

    /// What else must hold under the fault.
    pub fn also(mut self, also: fn(&Stage, &GPUNodeStatus, Phase) -> Result<(), String>) -> Self {
        self.also = also;
        self
    }

    fn expected(&self, phase: Phase) -> String {
        let mut others = self.others.at(phase);
        if phase == Phase::Held {
            others = others.replace(" Held", " shareable");
        }
        line(self.nvml, &self.target.at(phase), &others, &self.after.at(phase))
    }

    /// The seeds of one phase, unless so many are asked for: two where the order of events or the sort of the other fault
    /// matters, and elsewhere one that differs from line to line.
    pub fn seeds(&self, phase: Phase, asked: Option<u64>, place: u64) -> std::ops::Range<u64> {
        match asked {
            Some(asked) => 0..asked,
            None if phase == Phase::Other || self.needs.listens => 0..2,
            None => place..place + 1,
        }
    }

    /// Runs it with each seed; the observation that differs from what is expected is the one that is shown.
    pub async fn run(&self, phase: Phase, seeds: std::ops::Range<u64>) -> Line {
        let mut shown: Option<(String, Vec<String>)> = None;
        let expected = self.expected(phase);
        for seed in seeds {
            let (observed, complaints) = self.observe(phase, Seed(seed)).await;
            let complaints = complaints.into_iter().map(|what| format!("seed {seed}: {what}")).collect::<Vec<_>>();
            let wrong = observed != expected || !complaints.is_empty();
            if wrong || shown.is_none() {
                shown = Some((observed, complaints));
            }
            if wrong {
                break;
            }
        }
        let (observed, complaints) = shown.unwrap_or_default();
        let fault = format!("{} {}", self.fault, self.variant);
        Line { fault, phase: phase.name(), observed, expected, complaints }
    }

    async fn observe(&self, phase: Phase, seed: Seed) -> (String, Vec<String>) {
        let sound = Scene::sound(phase, seed);
        let mut stage;
        let mut scene = sound.clone();
        if phase == Phase::Start {
            if self.ran_before {
                stage = Stage::new(&sound, self.needs);
                stage.round().await;
                stage.restarts();
                (self.strike)(&mut scene);
                stage.becomes(&scene);
            } else {
                (self.strike)(&mut scene);
                stage = Stage::new(&scene, self.needs);
            }
        } else {
            stage = Stage::new(&sound, self.needs);
            for _ in 0..SOUND {
                stage.round().await;
            }
            stage.listens().await;
            if phase == Phase::Other {
                scene = scene.with_another_fault();
                stage.becomes(&scene);
                stage.round().await;
                stage.listens().await;
            }
            stage.settles().await;
            (self.strike)(&mut scene);
            stage.becomes(&scene);
        }
        let before = stage.status();
        let mut status = before.clone();
        if phase == Phase::Start && self.needs.listens {
            // There is nobody to hear before a survey has found something to listen to.
            stage.round().await;
        }
        if let Some(errors) = self.heard.filter(|_| !(self.unheard_at_start && phase == Phase::Start)) {
            stage.hears(errors).await;
        }
        if self.deafens {
            stage.goes_deaf().await;
        }
        for (number, seconds) in (0..).zip(&self.rounds) {
            let unchanged = scene.clone();
            (self.goes_on)(&mut scene, number);
            if scene != unchanged {
                stage.becomes(&scene);
            }
            status = stage.round_after(*seconds).await;
        }
        let mut complaints = Vec::new();
        if let Err(complaint) = (self.also)(&stage, &status, phase) {
            complaints.push(complaint);
        }
        let target = observed::text(&status, TARGET);
        // Which of two devices with one name a pod holds, nobody can say.
        let nobody_knows = target.contains("DuplicateUUID");
        if phase == Phase::Held && target != "no row" && observed::is_held(&status) == nobody_knows {
            let what = if nobody_knows { "is named, though it may hold the other one" } else { "is forgotten" };
            complaints.push(format!("the pod that holds the device {what}"));
        }
        if phase == Phase::Other {
            complaints.extend(no_better(&before, &status));
        }
        // The agent lives: it goes on once the fault has gone.
        let mut scene = if phase == Phase::Other { sound.with_another_fault() } else { sound };
        (self.mend)(&mut scene);
        stage.becomes(&scene);
        let mended = stage.round().await;
        if observed::nvml(&mended) != "Available" {
            complaints.push(format!("once the fault has gone NVML is still {}", observed::nvml(&mended)));
        }
        let another = phase == Phase::Other;
        let after = observed::text(&mended, TARGET);
        let text = line(&observed::nvml(&status), &target, &observed::others(&status, another), &after);
        complaints.append(&mut stage.broken);
        (text, complaints)
    }
}

/// A fault elsewhere makes no device better.
fn no_better(before: &GPUNodeStatus, status: &GPUNodeStatus) -> Option<String> {
    use koinon_api::gpu_node::HealthState;
    let rank = |state: HealthState| match state {
        HealthState::Healthy => 0,
        HealthState::Degraded => 1,
        HealthState::Unknown => 2,
        HealthState::Unhealthy => 3,
    };
    let other = crate::scene::OTHER;
    let (was, is) = (observed::row(before, other)?, observed::row(status, other)?);
    let better = rank(is.health.state) < rank(was.health.state) || is.shareable;
    better.then(|| format!("the other faulty device was {} and is {}", observed::of_row(was), observed::of_row(is)))
}

fn line(nvml: &str, target: &str, others: &str, after: &str) -> String {
    format!("NVML {nvml}; target {target}; others {others}; then {after}")
}
