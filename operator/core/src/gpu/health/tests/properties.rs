//! What holds for every node and every story of it.

use proptest::prelude::*;
use serde_json::Value;

use super::history::{MAX_DEVICES, MAX_FINDINGS, MAX_XIDS};
use super::*;

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // The finaliser of splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.roll(of.len() as u64)).unwrap()]
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, usize::try_from(self.roll(at as u64 + 1)).unwrap());
        }
    }
}

/// Readings that speak against a device, or for it again.
const SPOILS: [fn(&mut Device); 16] = [
    |device| *device = super::device(device.id.as_str()),
    |device| *device = super::device(device.id.as_str()),
    |device| *device = super::device(device.id.as_str()),
    |device| device.recovery = Known(RecoveryAction::GpuReset),
    |device| device.recovery = Known(RecoveryAction::DrainP2p),
    |device| device.ecc.volatile_uncorrected = Known(5),
    |device| device.remap.pending = Known(true),
    |device| device.remap.uncorrectable = Known(9),
    |device| device.ecc.sram_threshold_exceeded = Known(true),
    |device| device.nvlink.active = Known(3),
    |device| device.persistence = Known(false),
    |device| device.thermal.gpu = Known(90),
    |device| device.clocks.throttle = Known(Throttle(u64::MAX)),
    |device| device.memory.total = Known(Bytes(1)),
    |device| device.pcie.width = Known(1),
    |device| device.instances = vec![instance("MIG-1", 1), instance("MIG-2", 2)],
];

/// Readings that fail.
const BLINDS: [fn(&mut Device, Gap); 15] = [
    |device, gap| device.recovery = Reading::Unknown(gap),
    |device, gap| device.ecc.volatile_uncorrected = Reading::Unknown(gap),
    |device, gap| device.ecc.mode = Reading::Unknown(gap),
    |device, gap| device.ecc.sram_threshold_exceeded = Reading::Unknown(gap),
    |device, gap| device.remap.pending = Reading::Unknown(gap),
    |device, gap| device.remap.failed = Reading::Unknown(gap),
    |device, gap| device.remap.uncorrectable = Reading::Unknown(gap),
    |device, gap| device.nvlink.active = Reading::Unknown(gap),
    |device, gap| device.persistence = Reading::Unknown(gap),
    |device, gap| device.thermal.gpu = Reading::Unknown(gap),
    |device, gap| device.clocks.throttle = Reading::Unknown(gap),
    |device, gap| device.memory.total = Reading::Unknown(gap),
    |device, gap| device.identity.product = Reading::Unknown(gap),
    |device, gap| device.pcie.width = Reading::Unknown(gap),
    |device, gap| device.clocks.sm_megahertz = Reading::Unknown(gap),
];

const GAPS: [Gap; 8] = [
    Gap::NoPermission,
    Gap::Implausible,
    Gap::Unstable,
    Gap::VersionMismatch,
    Gap::NotReady,
    Gap::NotAsked,
    Gap::Code(999),
    Gap::Lost,
];

fn random_event(node: &Node, dice: &mut Dice) -> XidEvent {
    let code = u32::try_from(dice.roll(190)).unwrap();
    let workload = dice.pick(&[None, Some("a"), Some("b"), Some("c")]).map(|name| name.parse().unwrap());
    let detail = dice.pick(&[None, Some("(0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)"), Some("to 0x3 (Drain P2P)")]);
    let place = dice.pick(&[None, None, Some(1), Some(7)]);
    let mut event = node.event(usize::try_from(dice.roll(4)).unwrap(), code);
    event.at = UnixSeconds(node.now.0.saturating_sub(i64::try_from(dice.roll(90)).unwrap()));
    event.source = *dice.pick(XidSource::ALL);
    event.place = place.map(|gpu_instance| InstancePlace { gpu_instance, compute_instance: 0 });
    event.detail = detail.map(str::to_owned);
    event.workload = workload;
    if dice.roll(12) == 0 {
        event.device = None;
    }
    event
}

/// Lets something happen to a node. Answers what may clear its devices.
fn happen(node: &mut Node, dice: &mut Dice) -> BTreeSet<DeviceId> {
    let mut cleared = BTreeSet::new();
    let id: DeviceId = format!("GPU-{}", dice.roll(3)).parse().unwrap();
    match dice.roll(24) {
        0 => {
            node.reboot();
            cleared.extend((0..3).map(|at| format!("GPU-{at}").parse().unwrap()));
        }
        1 => {
            node.reset(id.as_str());
            cleared.insert(id);
        }
        2 => {
            let reason = dice.pick(&["", "looked at it"]).parse().unwrap();
            node.clears.insert(id.clone(), OwnerClear { at: node.now, reason });
            cleared.insert(id);
        }
        3 => node.failed = Some((SurveyFailure::Deadline, 1 + u32::try_from(dice.roll(3)).unwrap())),
        4 => node.devices.retain(|device| device.id != id),
        5 => node.devices.push(device(id.as_str())),
        6 => node.lost = vec![LostDevice { index: 0, gap: Gap::Lost }],
        7 => node.lost.clear(),
        8 => node.context.driver = Some(dice.pick(&["580.95.05", "590.10"]).parse().unwrap()),
        9..12 => {
            for _ in 0..=dice.roll(12) {
                let event = random_event(node, dice);
                node.events.push(event);
            }
        }
        12..15 => {
            let (blind, gap) = (dice.pick(&BLINDS), *dice.pick(&GAPS));
            if let Some(device) = node.devices.iter_mut().find(|device| device.id == id) {
                blind(device, gap);
            }
        }
        15..20 => {
            let spoil = dice.pick(&SPOILS);
            if let Some(device) = node.devices.iter_mut().find(|device| device.id == id) {
                spoil(device);
            }
        }
        _ => {
            (node.failed, node.lost) = (None, Vec::new());
            node.devices = (0..3).map(|at| device(&format!("GPU-{at}"))).collect();
        }
    }
    node.pass(*dice.pick(&[0, 1, 10, 15, 60, 300, 4_000]));
    cleared
}

/// What holds of every judgement.
fn check(judgement: &Judgement) {
    for (id, verdict) in judgement.devices.iter().chain(&judgement.instances) {
        assert!(verdict.reasons.len() <= MAX_REASONS, "{id}");
        assert_eq!(verdict.reasons.is_empty(), verdict.state == Health::Healthy, "{id}: {verdict:?}");
        assert!(verdict.offer != Offer::Any || verdict.state == Health::Healthy, "{id}: {verdict:?}");
        assert!(verdict.work < Work::Drain || verdict.state == Health::Unhealthy, "{id}: {verdict:?}");
    }
    assert!(judgement.notices.len() <= MAX_NOTICES && judgement.history.devices.len() <= MAX_DEVICES);
    for device in judgement.history.devices.values() {
        assert!(device.findings.len() <= MAX_FINDINGS && device.xids.len() <= MAX_XIDS);
        assert!(device.faults.len() <= 8 && device.faults.iter().all(|faults| faults.times.len() <= 8));
        assert!(device.changes.len() <= 16 && device.conditions.slowdown.len() <= 10);
        let size = serde_json::to_string(device).unwrap().len();
        assert!(size < 10_000, "{size} bytes about one device");
    }
}

fn story(seed: u64, steps: usize) {
    let (mut node, mut dice) = (Node::of(3), Dice(seed));
    // Devices that are unhealthy, and whether something that may clear them happened since.
    let mut condemned: BTreeMap<DeviceId, bool> = BTreeMap::new();
    for _ in 0..steps {
        for id in happen(&mut node, &mut dice) {
            condemned.entry(id).and_modify(|answered| *answered = true);
        }
        let judgement = node.judge();
        check(&judgement);
        for (id, verdict) in &judgement.devices {
            match verdict.state {
                Health::Unhealthy => drop(condemned.entry(id.clone()).or_insert(false)),
                // Nobody can tell while it is forgotten or doubled; what was condemned stays so.
                state => assert_ne!(condemned.remove(id), Some(false), "{id} became {state:?} by itself"),
            }
        }
    }
}

#[test]
fn ten_thousand_steps_leave_a_bounded_history_and_free_no_device_by_themselves() {
    story(1, 10_000);
}

/// Replaces values by others of their type, extreme ones among them, and lengthens lists.
fn spoil(key: &str, value: &mut Value, dice: &mut Dice) {
    let words: &[&str] = match key {
        "state" | "settled" => &["Healthy", "Degraded", "Unhealthy", "Unknown"],
        "reason" => &["GPULost", "ChannelRemoved", "RemapFailed", "DoubleBitError", "Thermal", "Voted"],
        "action" => &["None", "Replace"],
        "work" => &["Keep", "Drain", "DrainNode"],
        "offer" => &["Any", "SingleOnly", "Nothing"],
        "boot" => &["boot-1", "another"],
        _ => &[],
    };
    match value {
        Value::String(_) if dice.roll(4) == 0 && !words.is_empty() => *value = (*dice.pick(words)).into(),
        Value::Number(_) if dice.roll(3) == 0 => {
            let unsigned = ["count", "uptime", "code", "xid", "volatileUncorrected", "memoryTotal", "nvlink"];
            let place = ["gpuInstance", "computeInstance"];
            *value = if unsigned.contains(&key) || place.contains(&key) {
                (*dice.pick(&[0, 1, u32::MAX])).into()
            } else {
                (*dice.pick(&[i64::MIN, -1, 0, 1, i64::MAX])).into()
            };
        }
        Value::Array(list) => {
            list.iter_mut().for_each(|one| spoil(key, one, dice));
            if dice.roll(3) == 0 {
                let copies: Vec<Value> = list.iter().cycle().take(list.len() * 40).cloned().collect();
                list.extend(copies);
                list.iter_mut().for_each(|one| spoil(key, one, dice));
            }
        }
        Value::Object(map) => map.iter_mut().for_each(|(key, one)| spoil(key, one, dice)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn no_story_frees_a_device_by_itself(seed: u64) {
        story(seed, 300);
    }

    #[test]
    fn the_order_of_devices_reports_and_resets_is_of_no_effect(seed: u64) {
        let (mut node, mut dice) = (Node::of(3), Dice(seed));
        for _ in 0..60 {
            happen(&mut node, &mut dice);
            for _ in 0..dice.roll(4) {
                let event = random_event(&node, &mut dice);
                node.events.push(event);
            }
            let mut other = node.clone();
            dice.shuffle(&mut other.devices);
            dice.shuffle(&mut other.events);
            dice.shuffle(&mut other.resets);
            other.devices.iter_mut().for_each(|device| device.instances.reverse());
            let (one, other) = (node.judge(), other.judge());
            prop_assert_eq!(&one, &other);
            let bytes = |judgement: &Judgement| serde_json::to_vec(&judgement.history).unwrap();
            prop_assert_eq!(bytes(&one), bytes(&other));
        }
    }

    #[test]
    fn a_clock_that_jumps_changes_no_state(seed: u64) {
        let mut steady = Node::of(3);
        steady.context.ready_since = None;
        let mut jumping = steady.clone();
        let (mut one, mut other, mut jumps) = (Dice(seed), Dice(seed), Dice(!seed));
        for _ in 0..150 {
            happen(&mut steady, &mut one);
            happen(&mut jumping, &mut other);
            // Reports carry the time of the same clock; only their ages are known to be right.
            for node in [&mut steady, &mut jumping] {
                let now = node.now;
                node.events.iter_mut().for_each(|event| event.at = now);
                node.resets.iter_mut().for_each(|reset| reset.at = now);
            }
            let states = |judgement: &Judgement| -> Vec<(Health, Offer)> {
                judgement.devices.values().map(|verdict| (verdict.state, verdict.offer)).collect()
            };
            prop_assert_eq!(states(&steady.judge()), states(&jumping.judge()));
            let jump = *jumps.pick(&[0, 0, -7, 3_600, -86_400, 400_000_000]);
            jumping.now = UnixSeconds(jumping.now.0.saturating_add(jump));
        }
    }

    #[test]
    fn a_history_of_any_content_is_judged_and_cut_to_its_bounds(seed: u64) {
        let (mut node, mut dice) = (Node::of(3), Dice(seed));
        for _ in 0..40 {
            happen(&mut node, &mut dice);
            node.judge();
            let mut value = serde_json::to_value(&node.history).unwrap();
            spoil("", &mut value, &mut dice);
            let history = serde_json::from_value(value).unwrap();
            let mut other = Node { history, ..node.clone() };
            for _ in 0..3 {
                check(&other.after(60));
            }
        }
    }
}

proptest! {
    // Short stories, so many of them.
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_cannot_be_read_makes_no_device_healthier(
        spoils in prop::collection::vec(0..SPOILS.len(), 0..4),
        blinds in prop::collection::vec((0..BLINDS.len(), 0..GAPS.len()), 1..5),
        minutes in 0..12,
    ) {
        let mut node = Node::of(2);
        let mut blind = node.clone();
        spoils.iter().for_each(|at| SPOILS[*at](&mut node.devices[0]));
        blind.devices = node.devices.clone();
        for minute in 0..=minutes {
            if minute == minutes {
                blinds.iter().for_each(|(at, gap)| BLINDS[*at](&mut blind.devices[0], GAPS[*gap]));
            }
            let (seen, unseen) = (node.after(60), blind.after(60));
            let (seen, unseen) = (seen.of("GPU-0"), unseen.of("GPU-0"));
            prop_assert!(unseen.state != Health::Healthy || seen.state == Health::Healthy, "{unseen:?} {seen:?}");
            prop_assert!(unseen.offer >= seen.offer, "{unseen:?} {seen:?}");
        }
        // And while the reading is missing it stays so.
        let held = blind.after(60).of("GPU-0").clone();
        prop_assert!(held.state != Health::Healthy || node.after(60).state("GPU-0") == Health::Healthy);
    }

    #[test]
    fn no_time_and_no_uptime_panics(now: i64, uptime: u64, ready: i64, later: i64, uptime_later: u64) {
        let mut node = Node::of(1);
        for (now, uptime) in [(now, uptime), (later, uptime_later), (i64::MIN, 0), (i64::MAX, u64::MAX)] {
            node.context.ready_since = Some(UnixSeconds(ready));
            (node.now, node.context.uptime_milliseconds) = (UnixSeconds(now), uptime);
            node.report(0, 79);
            node.report(0, 45);
            node.fault(None);
            check(&node.judge());
        }
    }
}
