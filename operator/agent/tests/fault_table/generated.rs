//! Every symbol of the library, one after the other, that is not supported (F24) or not there (F25).

use std::path::PathBuf;

use fake_nvml::{Behaviour, SYMBOLS, without_symbol};

use crate::cell::Line;
use crate::common::library;
use crate::observed;
use crate::random::Seed;
use crate::scene::{Phase, Scene, TARGET};
use crate::stage::{Needs, Stage};

const MISSING: &str = "Unknown(DeviceMissing) Keep NotHealthy";
const UNREAD: &str = "Unknown(IncompleteReading) Keep NotHealthy";
const UNASKED: &str = "Unknown(SurveyFailed) Keep NotHealthy";
const WELL: &str = "Healthy shareable";

/// What a symbol's failing is expected to come to.
enum Outcome {
    /// A value is not known, of which nothing depends.
    Well,
    /// Nobody can be asked.
    Unasked,
    /// The device does not say who it is.
    Missing,
    /// The device is not known well enough.
    Unread,
}

pub struct Generated {
    symbol: &'static str,
    absent: bool,
}

pub fn all() -> Vec<Generated> {
    let of = |absent| SYMBOLS.iter().map(move |symbol| Generated { symbol, absent });
    of(false).chain(of(true)).collect()
}

impl Generated {
    pub fn fault(&self) -> &'static str {
        if self.absent { "F25" } else { "F24" }
    }

    fn outcome(&self) -> Outcome {
        match self.symbol {
            "nvmlInit_v2" | "nvmlDeviceGetCount_v2" => Outcome::Unasked,
            "nvmlDeviceGetHandleByIndex_v2" | "nvmlDeviceGetUUID" => Outcome::Missing,
            "nvmlDeviceGetName" | "nvmlDeviceGetMemoryInfo_v2" => Outcome::Unread,
            _ => Outcome::Well,
        }
    }

    fn expected(&self, phase: Phase) -> String {
        let (nvml, target) = match (self.outcome(), phase) {
            (Outcome::Well, _) => ("Available", WELL),
            (Outcome::Unasked, _) => (if self.absent { "SymbolMissing" } else { "Error 3" }, UNASKED),
            (Outcome::Missing, _) => ("Available", MISSING),
            (Outcome::Unread, _) => ("Available", UNREAD),
        };
        let target = if phase == Phase::Start && [UNASKED, MISSING].contains(&target) { "no row" } else { target };
        // A library that lacks a symbol lacks it for every device, and so fails what is asked of none.
        let all = self.absent || matches!(self.outcome(), Outcome::Unasked);
        line(nvml, target, if all { target } else { WELL })
    }

    /// The line of each phase.
    pub async fn run(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for phase in [Phase::Start, Phase::Steady] {
            let (observed, complaints) = self.observe(phase).await;
            let what = if self.absent { "there is no" } else { "not supported:" };
            let fault = format!("{} {what} {}", self.fault(), self.symbol);
            lines.push(Line { fault, phase: phase.name(), observed, expected: self.expected(phase), complaints });
        }
        lines
    }

    async fn observe(&self, phase: Phase) -> (String, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let sound = Scene::sound(phase, Seed(0));
        let mut scene = sound.clone();
        if self.absent {
            let copy: PathBuf = folder.path().join("libnvidia-ml.so.1");
            without_symbol(&library(), self.symbol, &copy).unwrap();
            scene.library = Some(copy);
        } else if self.symbol.starts_with("nvmlDevice") && self.symbol != "nvmlDeviceGetCount_v2" {
            scene.fails_of_target(self.symbol, Behaviour::Return(3));
        } else {
            scene.fails(self.symbol, Behaviour::Return(3));
        }
        let mut stage;
        if phase == Phase::Start {
            stage = Stage::new(&scene, Needs::default());
        } else {
            stage = Stage::new(&sound, Needs::default());
            stage.round().await;
            stage.becomes(&scene);
        }
        let status = stage.round().await;
        let text = line(&observed::nvml(&status), &observed::text(&status, TARGET), &observed::others(&status, false));
        (text, std::mem::take(&mut stage.broken))
    }
}

fn line(nvml: &str, target: &str, others: &str) -> String {
    format!("NVML {nvml}; target {target}; others {others}")
}
