//! A node whose driver is the fake library, and the surveying process as it is shipped.

#![allow(dead_code)] // each test file uses a part of it.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their helpers.

pub mod api;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fake_nvml::Scenario;
use koinon_agent::judging::Judge;
use koinon_agent::survey::{Survey, SurveyCommand, Surveyor};
use koinon_api::gpu_node::GPUNodeStatus;
use koinon_core::capacity::Health;
use tempfile::TempDir;

/// Generous for a machine that compiles something else meanwhile; a survey of the fake takes some 20 ms.
pub const PATIENT: Duration = Duration::from_secs(20);

/// The folder into which cargo puts what it builds for this test: `target/<profile>`.
pub fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

/// The fake driver library.
pub fn library() -> PathBuf {
    let path = built().join("deps/libfake_nvml.so");
    assert!(path.exists(), "{} is missing: run `cargo build -p fake-nvml`", path.display());
    path
}

/// The surveying process as it is shipped.
pub fn agent() -> PathBuf {
    let path = built().join("examples/agent");
    assert!(path.exists(), "{} is missing: run `cargo build -p koinon-agent --examples`", path.display());
    path
}

pub struct Node {
    pub folder: TempDir,
}

impl Node {
    pub fn with(scenario: &Scenario) -> Self {
        let node = Self { folder: tempfile::tempdir().unwrap() };
        node.becomes(scenario);
        node
    }

    pub fn becomes(&self, scenario: &Scenario) {
        self.becomes_text(&serde_json::to_string(scenario).unwrap());
    }

    pub fn becomes_text(&self, text: &str) {
        // A rename, so that a reader never sees half a file.
        let fresh = self.folder.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.folder.path().join("scenario.json")).unwrap();
    }

    pub fn trace(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("trace")).unwrap_or_default()
    }

    /// The surveying process on this node. `env` replaces itself with it, so that it is the process that is watched.
    pub fn command(&self, library: &Path) -> SurveyCommand {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let arguments = [
            format!("FAKE_NVML_SCENARIO={}", path("scenario.json")).into(),
            format!("FAKE_NVML_TRACE={}", path("trace")).into(),
            agent().into(),
            "agent".into(),
            "survey".into(),
            "--nvml-lib".into(),
            library.into(),
        ];
        SurveyCommand { program: "/usr/bin/env".into(), arguments: arguments.into() }
    }

    pub fn surveyor(&self, deadline: Duration) -> Surveyor {
        Surveyor::new(self.command(&library()), deadline)
    }

    pub async fn survey(&self) -> Survey {
        self.surveyor(PATIENT).survey().await
    }
}

/// State and first reason of each device that a survey read, by an agent that sees the node for the first time.
pub fn health(survey: &Survey) -> Vec<(Health, String)> {
    let mut judge = Judge::new("b".parse().unwrap());
    let judgement = judge.judge(survey, &BTreeMap::new(), &GPUNodeStatus::default());
    let verdicts = survey.devices.iter().map(|device| &judgement.devices[&device.id]);
    verdicts
        .map(|verdict| (verdict.state, verdict.reasons.first().map(ToString::to_string).unwrap_or_default()))
        .collect()
}

pub fn healthy() -> (Health, String) {
    (Health::Healthy, String::new())
}
