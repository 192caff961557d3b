//! What a seed stands for: the nodes, and what goes wrong with whom.

use std::collections::BTreeSet;

use super::Options;
use crate::dice::Dice;

/// Seconds since the run began.
pub(super) type Second = u64;

/// Something that goes wrong, each of them again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Devices break, or work and should not be used.
    Ailments,
    /// Values cannot be read, or do not exist on this device.
    Readings,
    /// Surveys do not come back.
    Surveys,
    /// Devices vanish, are renumbered, give the id of another one, or do not say theirs.
    Ids,
    /// Agents stop and start again, fall silent, or cannot write.
    Agents,
    /// Kubelets restart, do not say who holds what, and tell late what they can give.
    Kubelets,
    /// Device plugins have an opinion of their own, and lists of their own.
    Plugins,
    /// Operators see everything late, each kind of object for itself.
    Lag,
    /// Processes use devices that nobody gave them, and leave memory behind.
    Processes,
    /// The owner resets, reboots, cordons, drains, and calls devices well that are not.
    Owner,
    /// Two operators decide at once, and die between two writes.
    Operators,
    /// Nodes' clocks are off, and jump.
    Clocks,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Ailments,
        Self::Readings,
        Self::Surveys,
        Self::Ids,
        Self::Agents,
        Self::Kubelets,
        Self::Plugins,
        Self::Lag,
        Self::Processes,
        Self::Owner,
        Self::Operators,
        Self::Clocks,
    ];
}

impl std::str::FromStr for Fault {
    type Err = UnknownFault;
    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let found = Self::ALL.into_iter().find(|fault| format!("{fault:?}").eq_ignore_ascii_case(text));
        found.ok_or_else(|| UnknownFault(text.to_owned()))
    }
}

/// A fault that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault {0:?}: look at the help for the list")]
pub struct UnknownFault(String);

/// One device as it is built in.
#[derive(Clone, Debug)]
pub(super) struct Built {
    /// Instances into which it is divided; none if it is whole.
    pub slices: u32,
    /// Whether it is a product without error correction and links.
    pub plain: bool,
}

/// What a seed stands for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What goes wrong.
    pub faults: BTreeSet<Fault>,
    /// How long it takes.
    pub(super) end: Second,
    /// The devices of each node.
    pub(super) nodes: Vec<Vec<Built>>,
    /// What the owner keeps free; none means the least that there is.
    pub(super) reserve: Option<u32>,
    /// Seconds between two pods of the owner; homes ask twice as often.
    pub(super) pace: usize,
    /// How many surveys in a hundred are compared with themselves knowing less.
    pub(super) compared: usize,
    pub(super) dice: Dice,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64, options: &Options) -> Self {
        let mut dice = Dice::new(seed);
        let drawn = draw_faults(&mut dice);
        let faults = options.faults.clone().unwrap_or(drawn);
        let nodes = 1 + dice.below(3);
        let nodes = (0..nodes).map(|_| draw_node(&mut dice)).collect();
        let reserve = (!dice.percent(50)).then(|| if dice.percent(60) { 0 } else { 1 });
        let end = u64::from(options.minutes.unwrap_or(40)) * 60;
        let pace = 60 + dice.below(240);
        Self { seed, faults, end, nodes, reserve, pace, compared: 10, dice }
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Whether nothing goes wrong.
    pub fn is_calm(&self) -> bool {
        self.faults.is_empty()
    }

    /// The faults in words.
    pub fn kind(&self) -> String {
        match self.faults.len() {
            0 => "none".to_owned(),
            1 => self.faults.first().map(|fault| format!("{fault:?}")).unwrap_or_default(),
            n if n == Fault::ALL.len() => "all".to_owned(),
            _ => "several".to_owned(),
        }
    }
}

/// Faults that meet are where rules break; one alone is what can be understood.
fn draw_faults(dice: &mut Dice) -> BTreeSet<Fault> {
    match dice.below(10) {
        0 => BTreeSet::new(),
        1..4 => dice.pick(&Fault::ALL).copied().into_iter().collect(),
        4..7 => Fault::ALL.into_iter().filter(|_| dice.percent(30)).collect(),
        _ => Fault::ALL.into(),
    }
}

fn draw_node(dice: &mut Dice) -> Vec<Built> {
    let (devices, divided, plain) = (1 + dice.below(4), dice.percent(20), dice.percent(15));
    (0..devices).map(|_| Built { slices: if divided { 2 + u32::from(dice.percent(50)) } else { 0 }, plain }).collect()
}
