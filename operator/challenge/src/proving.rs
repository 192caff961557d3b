//! One challenge at a time: what is answered after what.

use std::time::Instant;

use koinon_core::challenge::tree::{Node, Path, Tree};
use koinon_core::challenge::{Ask, Commitment, Reply, Salt, Secret, Task, asked_rows};

use crate::device::{Device, DeviceError};

/// Why a question is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProvingError {
    /// A device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// More or fewer devices than there are.
    #[error("{asked} devices are asked for and this pod has {there}")]
    Devices {
        /// As asked.
        asked: u8,
        /// What there are.
        there: usize,
    },
    /// Out of turn.
    #[error("{asked} is asked out of turn: {expected} comes next")]
    Turn {
        /// The question.
        asked: &'static str,
        /// What could be.
        expected: &'static str,
    },
    /// Not what was fixed before.
    #[error("the {0} is not what the challenger fixed before: nobody else may go on with its challenge")]
    NotFixed(&'static str),
}

/// How far the challenge is.
enum State {
    Idle,
    Computed { task: Task, commitment: Commitment },
    Recalled { task: Task, salt: Salt, trees: Vec<Tree> },
}

/// The devices and what they hold.
pub struct Proving {
    devices: Vec<Box<dyn Device>>,
    state: State,
}

impl Proving {
    /// With these devices, all of which every challenge asks.
    #[must_use]
    pub fn new(devices: Vec<Box<dyn Device>>) -> Self {
        Self { devices, state: State::Idle }
    }

    /// The answer to a question. A new challenge ends the one before it, whose challenger did not go on.
    ///
    /// # Errors
    /// It is out of turn, not for these devices, or a device failed. What was computed is given back then.
    pub fn answer(&mut self, ask: &Ask) -> Result<Reply, ProvingError> {
        let answer = match ask {
            Ask::Begin { task, devices, commitment } => self.begin(*task, *devices, *commitment),
            Ask::Recall { salt } => self.recall(salt),
            Ask::Open { secret } => self.open(secret),
        };
        // A wrong salt or secret may come from anybody, and costs nothing.
        if matches!(answer, Err(ProvingError::Device(_))) {
            self.end();
        }
        answer
    }

    fn end(&mut self) {
        self.devices.iter_mut().for_each(|device| device.forget());
        self.state = State::Idle;
    }

    fn begin(&mut self, task: Task, asked: u8, commitment: Commitment) -> Result<Reply, ProvingError> {
        let there = self.devices.len();
        if usize::from(asked) != there {
            return Err(ProvingError::Devices { asked, there });
        }
        self.end();
        let done = self.at_once(|device, index| device.compute(&task, index))?;
        self.state = State::Computed { task, commitment };
        Ok(Reply::Computed { millis: done.into_iter().map(|((), millis)| millis).collect() })
    }

    fn recall(&mut self, salt: &Salt) -> Result<Reply, ProvingError> {
        let State::Computed { task, commitment } = self.state else {
            return Err(self.out_of_turn("recall"));
        };
        if salt.commitment() != commitment {
            return Err(ProvingError::NotFixed("salt"));
        }
        let done = self.at_once(|device, index| {
            let leaves = device.digest(salt, index)?;
            Tree::new(leaves).ok_or_else(|| DeviceError::Nothing(device.name()))
        })?;
        let (trees, millis): (Vec<Tree>, _) = done.into_iter().unzip();
        let roots: Vec<Node> = trees.iter().map(Tree::root).collect();
        self.devices.iter_mut().for_each(|device| device.forget());
        self.state = State::Recalled { task, salt: *salt, trees };
        Ok(Reply::Recalled { roots, millis })
    }

    fn open(&mut self, secret: &Secret) -> Result<Reply, ProvingError> {
        let State::Recalled { task, salt, trees } = &self.state else {
            return Err(self.out_of_turn("open"));
        };
        if secret.salt() != *salt {
            return Err(ProvingError::NotFixed("secret"));
        }
        let roots: Vec<Node> = trees.iter().map(Tree::root).collect();
        let asked = asked_rows(&task.seed, secret, task.size, &roots);
        let shown = |(tree, rows): (&Tree, Vec<u32>)| -> Vec<Path> {
            rows.into_iter().filter_map(|row| tree.path(row)).collect()
        };
        let paths = trees.iter().zip(asked).map(shown).collect();
        self.end();
        Ok(Reply::Opened { paths })
    }

    fn out_of_turn(&self, asked: &'static str) -> ProvingError {
        let expected = match self.state {
            State::Idle => "begin",
            State::Computed { .. } => "recall",
            State::Recalled { .. } => "open",
        };
        ProvingError::Turn { asked, expected }
    }

    /// Has all devices do something at once, each on a thread of its own, and takes each one's milliseconds.
    fn at_once<T: Send>(
        &mut self,
        work: impl Fn(&mut dyn Device, u8) -> Result<T, DeviceError> + Sync,
    ) -> Result<Vec<(T, u32)>, DeviceError> {
        let work = &work;
        std::thread::scope(|scope| {
            let started: Vec<_> = (0u8..)
                .zip(&mut self.devices)
                .map(|(index, device)| {
                    let name = device.name();
                    let timed = move || {
                        let begun = Instant::now();
                        let done = work(device.as_mut(), index)?;
                        Ok((done, u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX)))
                    };
                    (name, scope.spawn(timed))
                })
                .collect();
            let ended = started.into_iter().map(|(name, thread)| {
                thread.join().unwrap_or_else(|_| {
                    let why = "the thread that worked with it broke down".to_owned();
                    Err(DeviceError::Driver { call: "a call", device: name, why })
                })
            });
            ended.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use koinon_core::challenge::{Seed, Size};
    use koinon_core::ids::Bytes;

    use super::*;
    use crate::cpu::Cpu;

    fn proving(devices: usize) -> Proving {
        Proving::new((0..devices).map(|_| Box::new(Cpu::new(Bytes(1 << 20))) as Box<dyn Device>).collect())
    }

    fn begin(devices: u8, secret: u8) -> Ask {
        let task = Task { seed: Seed([1; 32]), size: Size::new(128, 64).unwrap() };
        Ask::Begin { task, devices, commitment: Secret([secret; 32]).salt().commitment() }
    }

    fn recall(secret: u8) -> Ask {
        Ask::Recall { salt: Secret([secret; 32]).salt() }
    }

    fn open(secret: u8) -> Ask {
        Ask::Open { secret: Secret([secret; 32]) }
    }

    #[test]
    fn questions_are_answered_in_their_turn_alone() {
        let mut proving = proving(1);
        let turn = |asked, expected| Err(ProvingError::Turn { asked, expected });
        assert_eq!(proving.answer(&recall(1)), turn("recall", "begin"));
        assert_eq!(proving.answer(&open(1)), turn("open", "begin"));
        proving.answer(&begin(1, 1)).unwrap();
        assert_eq!(proving.answer(&open(1)), turn("open", "recall"));
        proving.answer(&recall(1)).unwrap();
        assert_eq!(proving.answer(&recall(1)), turn("recall", "open"), "one matrix has one root");
        proving.answer(&open(1)).unwrap();
        assert_eq!(proving.answer(&open(1)), turn("open", "begin"));
    }

    #[test]
    fn only_who_began_can_go_on() {
        let mut proving = proving(1);
        proving.answer(&begin(1, 1)).unwrap();
        assert_eq!(proving.answer(&recall(2)), Err(ProvingError::NotFixed("salt")));
        proving.answer(&recall(1)).unwrap();
        assert_eq!(proving.answer(&open(2)), Err(ProvingError::NotFixed("secret")));
        proving.answer(&open(1)).unwrap();
    }

    #[test]
    fn all_devices_are_asked_or_none() {
        let mut proving = proving(2);
        for asked in [1, 3] {
            assert_eq!(proving.answer(&begin(asked, 1)), Err(ProvingError::Devices { asked, there: 2 }));
        }
        let Ok(Reply::Computed { millis }) = proving.answer(&begin(2, 1)) else { panic!("not computed") };
        assert_eq!(millis.len(), 2);
        let Ok(Reply::Recalled { roots, .. }) = proving.answer(&recall(1)) else { panic!("not recalled") };
        assert_ne!(roots[0], roots[1]);
    }

    #[test]
    fn a_new_challenge_ends_the_one_before() {
        let mut proving = proving(1);
        proving.answer(&begin(1, 1)).unwrap();
        proving.answer(&begin(1, 2)).unwrap();
        assert_eq!(proving.answer(&recall(1)), Err(ProvingError::NotFixed("salt")));
        proving.answer(&recall(2)).unwrap();
    }

    /// Breaks down where it is told to.
    struct Broken {
        computing: bool,
    }

    impl Device for Broken {
        fn name(&self) -> String {
            "broken".to_owned()
        }
        fn memory(&self) -> Bytes {
            Bytes(0)
        }
        fn compute(&mut self, _: &Task, _: u8) -> Result<(), DeviceError> {
            if self.computing { Err(DeviceError::Nothing(self.name())) } else { Ok(()) }
        }
        fn digest(&mut self, _: &Salt, _: u8) -> Result<Vec<Node>, DeviceError> {
            panic!("as asked")
        }
        fn forget(&mut self) {}
    }

    #[test]
    fn a_device_that_fails_ends_the_challenge_and_not_the_engine() {
        for computing in [true, false] {
            let mut proving = Proving::new(vec![Box::new(Cpu::new(Bytes(1 << 20))), Box::new(Broken { computing })]);
            let begun = proving.answer(&begin(2, 1));
            assert_eq!(begun.is_err(), computing);
            let recalled = proving.answer(&recall(1));
            let expected = if computing { "recall is asked out of turn" } else { "broke down" };
            assert!(recalled.as_ref().unwrap_err().to_string().contains(expected), "{recalled:?}");
            let turn = Err(ProvingError::Turn { asked: "recall", expected: "begin" });
            assert_eq!(proving.answer(&recall(1)), turn);
        }
    }
}
