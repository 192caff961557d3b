//! The library as its client sees it: loaded by path through `nvml-wrapper`, each time in a new process.

#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their helpers.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fake_nvml::{Behaviour, Device, DeviceState, Fault, Mig, MigMode, ProductName, SYMBOLS, Scenario};
use tempfile::TempDir;

/// The folder into which cargo puts what it builds for this test: `target/<profile>`.
fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

fn library() -> PathBuf {
    let path = built().join("deps/libfake_nvml.so");
    assert!(path.exists(), "{} is missing: run `cargo build -p fake-nvml`", path.display());
    path
}

struct Node {
    folder: TempDir,
}

impl Node {
    fn with(scenario: &Scenario) -> Self {
        let node = Self { folder: tempfile::tempdir().unwrap() };
        node.becomes(&serde_json::to_string(scenario).unwrap());
        node
    }

    fn becomes(&self, text: &str) {
        // A rename, so that a reader never sees half a file.
        let fresh = self.folder.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.scenario()).unwrap();
    }

    fn scenario(&self) -> PathBuf {
        self.folder.path().join("scenario.json")
    }

    fn trace(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("trace")).unwrap_or_default()
    }

    fn probe(&self) -> Command {
        let probe = built().join("examples/probe");
        assert!(probe.exists(), "{} is missing: run `cargo build -p fake-nvml --examples`", probe.display());
        let mut command = Command::new(probe);
        command.arg(library());
        command.env("FAKE_NVML_SCENARIO", self.scenario()).env("FAKE_NVML_TRACE", self.folder.path().join("trace"));
        command
    }

    fn asked(&self) -> Vec<String> {
        lines(&self.probe().output().unwrap())
    }
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

#[track_caller]
fn says(lines: &[String], expected: &str) {
    assert!(lines.iter().any(|line| line == expected), "{expected:?} is not among {lines:#?}");
}

#[test]
fn a_device_is_what_the_scenario_says_and_is_marked_as_fake() {
    let lines =
        Node::with(&Scenario { cuda_driver_version: Some(13_000), ..Scenario::of(vec![Device::h100(7)]) }).asked();
    says(&lines, "driver: 0.0-fake");
    says(&lines, "cuda: 13000");
    says(&lines, "count: 1");
    says(&lines, "0 uuid: GPU-fa4e0000-0000-4000-8000-000000000007");
    says(&lines, "0 name: NVIDIA H100 80GB HBM3");
    says(&lines, "0 memory: 85520809984");
    says(&lines, "0 mig: 0/0");
    says(&lines, "shutdown: ok");
}

#[test]
fn what_the_scenario_does_not_give_is_not_supported() {
    let lines = Node::with(&Scenario::of(vec![Device::bare(1)])).asked();
    for value in ["nvml", "cuda", "0 name", "0 memory", "0 mig"] {
        says(&lines, &format!("{value}: error 3"));
    }
}

#[test]
fn a_symbol_that_is_not_exported_is_absent() {
    says(&Node::with(&Scenario::of(vec![Device::h100(1)])).asked(), "0 fan: absent");
}

#[test]
fn nothing_is_exported_but_the_listed_symbols_and_none_changes_hardware() {
    let output = Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(library()).output().unwrap();
    assert!(output.status.success(), "nm, of binutils, reads the library: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut exported: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    let mut expected = SYMBOLS.to_vec();
    exported.sort_unstable();
    expected.sort_unstable();
    assert_eq!(exported, expected);
    // A set of events is the client's own, and no part of the hardware.
    for symbol in exported.into_iter().filter(|symbol| !symbol.starts_with("nvmlEventSet")) {
        for verb in ["Set", "Reset", "Clear", "Remove", "Modify", "Create", "Destroy"] {
            // `Settings` is a noun.
            let is_word = |rest: &str| !rest.starts_with(|letter: char| letter.is_ascii_lowercase());
            assert!(!symbol.split(verb).skip(1).any(is_word), "{symbol}");
        }
    }
}

#[test]
fn it_has_the_name_that_clients_ask_the_linker_for() {
    let bytes = std::fs::read(library()).unwrap();
    let soname = b"\0libnvidia-ml.so.1\0";
    assert!(bytes.windows(soname.len()).any(|window| window == soname));
}

#[test]
fn an_unknown_key_fails_the_initialisation_and_is_named_on_standard_error() {
    let node = Node::with(&Scenario::of(vec![]));
    node.becomes(r#"{"devices": [], "temprature": 90}"#);
    let output = node.probe().output().unwrap();
    says(&lines(&output), "init: error 999");
    let reason = String::from_utf8(output.stderr).unwrap();
    assert!(reason.contains("temprature"), "{reason}");
}

#[test]
fn a_missing_scenario_fails_the_initialisation() {
    let node = Node::with(&Scenario::of(vec![]));
    let output = node.probe().env_remove("FAKE_NVML_SCENARIO").output().unwrap();
    says(&lines(&output), "init: error 999");
    let reason = String::from_utf8(output.stderr).unwrap();
    assert!(reason.contains("set FAKE_NVML_SCENARIO"), "{reason}");
}

#[test]
fn the_codes_of_a_failed_initialisation_arrive() {
    for code in [4, 9, 12, 18, 27, 999] {
        let node = Node::with(&Scenario::of(vec![]).with_fault("nvmlInit_v2", None, Behaviour::Return(code)));
        assert_eq!(node.asked(), [format!("init: error {code}")]);
    }
}

#[test]
fn one_lost_device_leaves_the_others_and_the_count() {
    let lost = Device { state: DeviceState::Lost, ..Device::h100(2) };
    let lines = Node::with(&Scenario::of(vec![Device::h100(1), lost, Device::h100(3)])).asked();
    says(&lines, "count: 3");
    says(&lines, "1 handle: error 15");
    says(&lines, "2 uuid: GPU-fa4e0000-0000-4000-8000-000000000003");
}

#[test]
fn a_fault_may_strike_one_device_only_after_some_calls() {
    let mut scenario = Scenario::of(vec![Device::h100(1), Device::h100(2)]);
    scenario.faults.push(Fault {
        symbol: "nvmlDeviceGetUUID".to_owned(),
        device: Some(1),
        after_calls: 1,
        behaviour: Behaviour::Return(15),
    });
    let node = Node::with(&scenario);
    let lines = lines(&node.probe().arg("0").output().unwrap());
    let of_second: Vec<&String> = lines.iter().filter(|line| line.starts_with("1 uuid")).collect();
    assert_eq!(of_second, ["1 uuid: GPU-fa4e0000-0000-4000-8000-000000000002", "1 uuid: error 15"]);
    assert!(!lines.contains(&"0 uuid: error 15".to_owned()), "{lines:#?}");
}

#[test]
fn the_count_may_be_a_lie() {
    let lines = Node::with(&Scenario { count: Some(u32::MAX), ..Scenario::of(vec![Device::h100(1)]) }).asked();
    says(&lines, "count: 4294967295");
    says(&lines, "0 uuid: GPU-fa4e0000-0000-4000-8000-000000000001");
    says(&lines, "1 handle: error 2");
}

#[test]
fn two_devices_may_have_one_uuid_and_stay_two() {
    let twin = Device { memory_bytes: Some(1), ..Device::h100(1) };
    let lines = Node::with(&Scenario::of(vec![Device::h100(1), twin])).asked();
    says(&lines, "0 uuid: GPU-fa4e0000-0000-4000-8000-000000000001");
    says(&lines, "1 uuid: GPU-fa4e0000-0000-4000-8000-000000000001");
    says(&lines, "0 memory: 85520809984");
    says(&lines, "1 memory: 1");
}

#[test]
fn a_name_may_be_hostile() {
    let newline = Device { name: Some("H100\n\"},{".into()), ..Device::h100(1) };
    let binary = Device { name: Some(ProductName::Hex { hex: "fffe41".into() }), ..Device::h100(2) };
    let lines = Node::with(&Scenario::of(vec![newline, binary])).asked();
    says(&lines, r#"0 name: H100\n\"},{"#);
    says(&lines, "1 name: not text");
}

#[test]
fn a_change_of_the_file_is_seen_without_a_new_initialisation() {
    let node = Node::with(&Scenario::of(vec![Device::h100(1), Device::h100(2)]));
    let probe = node.probe().arg("1500").stdout(Stdio::piped()).spawn().unwrap();
    // Until the first pass has made its last call.
    let started = Instant::now();
    while node.trace().matches("nvmlDeviceGetMigMode 1 0").count() < 2 {
        assert!(started.elapsed() < Duration::from_secs(10), "the probe never began: {}", node.trace());
        std::thread::sleep(Duration::from_millis(10));
    }
    let enabled = Device { mig: Some(Mig { current: MigMode::Enabled, pending: MigMode::Enabled }), ..Device::h100(2) };
    node.becomes(&serde_json::to_string(&Scenario::of(vec![enabled])).unwrap());
    let lines = lines(&probe.wait_with_output().unwrap());
    let counts: Vec<&String> = lines.iter().filter(|line| line.starts_with("count")).collect();
    assert_eq!(counts, ["count: 2", "count: 1"]);
    says(&lines, "0 mig: 1/1");
    assert!(node.trace().contains("nvmlInit_v2 - 0\n"), "{}", node.trace());
    assert_eq!(node.trace().matches("nvmlInit_v2").count(), 1);
}

#[test]
fn a_call_about_an_instance_is_traced_as_that() {
    let node = Node::with(&Scenario::of(vec![Device::h100(1), Device::h100(2).divided(2)]));
    says(&node.asked(), "1/1 uuid: MIG-fa4e0000-0001-4000-8000-000000000002");
    assert!(node.trace().contains("\nnvmlDeviceGetUUID 1/1 0\n"), "{}", node.trace());
    assert!(node.trace().contains("\nnvmlDeviceGetMigDeviceHandleByIndex 1 6\n"), "{}", node.trace());
}

#[test]
fn a_hang_lasts_until_the_process_is_killed() {
    for symbol in ["nvmlInit_v2", "nvmlDeviceGetUUID", fake_nvml::EVERY_SYMBOL] {
        let node = Node::with(&Scenario::of(vec![Device::h100(1)]).with_fault(symbol, None, Behaviour::Hang));
        let mut probe = node.probe().stdout(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while !node.trace().contains("hang") {
            assert!(started.elapsed() < Duration::from_secs(10), "it never hung: {}", node.trace());
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(300));
        assert!(probe.try_wait().unwrap().is_none(), "the probe ended");
        probe.kill().unwrap();
        probe.wait().unwrap();
    }
}

#[test]
fn a_crash_is_a_segmentation_fault() {
    use std::os::unix::process::ExitStatusExt;
    let crash = Scenario::of(vec![Device::h100(1)]).with_fault("nvmlDeviceGetName", Some(0), Behaviour::Crash);
    let output = Node::with(&crash).probe().output().unwrap();
    assert_eq!(output.status.signal(), Some(11));
    says(&lines(&output), "0 uuid: GPU-fa4e0000-0000-4000-8000-000000000001");
}

#[test]
fn a_slow_call_answers_in_the_end() {
    let slow = Scenario::of(vec![]).with_fault("nvmlDeviceGetCount_v2", None, Behaviour::DelayMilliseconds(400));
    let started = Instant::now();
    let lines = Node::with(&slow).asked();
    assert!(started.elapsed() >= Duration::from_millis(400));
    says(&lines, "count: 0");
}
