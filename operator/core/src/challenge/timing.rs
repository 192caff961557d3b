//! How long a device of a class takes, and what else is not one.

use serde::{Deserialize, Serialize};

/// How many times as long as the longest recall the shortest computation must be. A device that kept nothing has to compute again
/// before it can hash, and one with another kernel may do that several times as fast as ours.
pub const COMPUTE_PER_RECALL: u32 = 4;

/// Fewer timings than this say nothing of a class.
pub const LEAST_TIMINGS: usize = 5;

/// Longest window: what a placement that only answers challenges may take, and longer than any gateway waits.
const MOST_MILLIS: u32 = 3_600_000;

/// How long the two answers took, in milliseconds, as the challenger measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timing {
    /// From `begin` to all devices having computed.
    pub compute_millis: u32,
    /// From the salt to the roots of all devices.
    pub recall_millis: u32,
}

/// Between these many milliseconds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Window {
    /// Faster is no device of the class.
    pub least: u32,
    /// Slower is none either.
    pub most: u32,
}

/// What a duration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A device of the class takes so long.
    Fits,
    /// Another device answered, or the answer was known before.
    TooFast,
    /// A slower device, a smaller one, or one that others use.
    TooSlow,
}

/// Holds a duration in milliseconds against a window.
#[must_use]
pub fn judge(millis: u32, window: Window) -> Verdict {
    if millis < window.least {
        Verdict::TooFast
    } else if millis > window.most {
        Verdict::TooSlow
    } else {
        Verdict::Fits
    }
}

/// Why windows cannot be those of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Empty, without end, or without beginning.
    #[error(
        "a window from {least} to {most} ms: it must begin at 1 ms or later, and end later than that and within an hour"
    )]
    Empty {
        /// Its beginning.
        least: u32,
        /// Its end.
        most: u32,
    },
    /// Recalling may take so long that there is time to compute again.
    #[error(
        "recalling may take up to {recall} ms and computing may take only {compute} ms: a device that kept nothing could compute \
         again, so computing must take {COMPUTE_PER_RECALL} times as long; choose a greater depth"
    )]
    NoMemory {
        /// The longest recall.
        recall: u32,
        /// The shortest computation.
        compute: u32,
    },
    /// Too few to say anything.
    #[error("{0} timings say nothing of a class: {LEAST_TIMINGS} are needed")]
    TooFew(usize),
}

/// The windows of a class and a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Windows {
    /// For computing.
    pub compute: Window,
    /// For hashing what was computed.
    pub recall: Window,
}

impl Windows {
    /// Checks that they can be those of a class.
    ///
    /// # Errors
    /// One is empty, or recalling may take so long that the memory is not shown.
    pub fn validate(&self) -> Result<(), WindowError> {
        for Window { least, most } in [self.compute, self.recall] {
            if least == 0 || least >= most || most > MOST_MILLIS {
                return Err(WindowError::Empty { least, most });
            }
        }
        let (recall, compute) = (self.recall.most, self.compute.least);
        if recall.saturating_mul(COMPUTE_PER_RECALL) > compute {
            return Err(WindowError::NoMemory { recall, compute });
        }
        Ok(())
    }

    /// What the two durations say: of computing and of recalling. Both must fit.
    #[must_use]
    pub fn judge(&self, timing: Timing) -> (Verdict, Verdict) {
        (judge(timing.compute_millis, self.compute), judge(timing.recall_millis, self.recall))
    }
}

/// Windows from what a cooperative measured of one class and size on devices that it believes: two thirds to three halves of the
/// median. An H100 hashes 1.65 times as fast as an A100 with as much memory (multiprocessors times clock), and a device that two
/// use takes twice as long, so both fall outside.
///
/// # Errors
/// Too few timings, or the class cannot be told from one without memory at this size.
pub fn propose(timings: &[Timing]) -> Result<Windows, WindowError> {
    if timings.len() < LEAST_TIMINGS {
        return Err(WindowError::TooFew(timings.len()));
    }
    let window = |of: fn(&Timing) -> u32| {
        let mut sorted: Vec<u32> = timings.iter().map(of).collect();
        sorted.sort_unstable();
        // Of two in the middle the shorter.
        let median = sorted[(sorted.len() - 1) / 2];
        Window { least: (median - median / 3).max(1), most: median.saturating_add(median / 2) }
    };
    let windows = Windows { compute: window(|t| t.compute_millis), recall: window(|t| t.recall_millis) };
    windows.validate()?;
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(compute_millis: u32, recall_millis: u32) -> Timing {
        Timing { compute_millis, recall_millis }
    }

    fn windows(compute: (u32, u32), recall: (u32, u32)) -> Windows {
        let window = |(least, most)| Window { least, most };
        Windows { compute: window(compute), recall: window(recall) }
    }

    #[test]
    fn both_ends_of_a_window_belong_to_it() {
        let window = Window { least: 100, most: 200 };
        let said = [99, 100, 200, 201].map(|millis| judge(millis, window));
        assert_eq!(said, [Verdict::TooFast, Verdict::Fits, Verdict::Fits, Verdict::TooSlow]);
        let said = windows((100, 200), (10, 20)).judge(timing(150, 21));
        assert_eq!(said, (Verdict::Fits, Verdict::TooSlow));
        assert_eq!(windows((100, 200), (10, 20)).judge(timing(99, 15)), (Verdict::TooFast, Verdict::Fits));
    }

    #[test]
    fn windows_leave_no_time_to_compute_again() {
        assert_eq!(windows((80, 200), (10, 20)).validate(), Ok(()));
        let late = windows((79, 200), (10, 20)).validate();
        assert_eq!(late, Err(WindowError::NoMemory { recall: 20, compute: 79 }));
        for (least, most) in [(0, 5), (5, 5), (6, 5), (1, MOST_MILLIS + 1)] {
            let empty = Err(WindowError::Empty { least, most });
            assert_eq!(windows((least, most), (1, 2)).validate(), empty);
            assert_eq!(windows((80, 200), (least, most)).validate(), empty);
        }
        let most = Window { least: 1, most: u32::MAX };
        assert!(Windows { compute: most, recall: most }.validate().is_err());
    }

    #[test]
    fn proposed_windows_hold_the_median_and_neither_half_nor_twice_of_it() {
        let mut timings = vec![timing(30_000, 300); 5];
        // Two of seven that are far off move nothing.
        timings.extend([timing(1, 1), timing(MOST_MILLIS, MOST_MILLIS)]);
        let windows = propose(&timings).unwrap();
        assert_eq!(windows, super::tests::windows((20_000, 45_000), (200, 450)));
        assert_eq!(windows.judge(timing(15_000, 150)), (Verdict::TooFast, Verdict::TooFast));
        assert_eq!(windows.judge(timing(60_000, 600)), (Verdict::TooSlow, Verdict::TooSlow));
        assert_eq!(windows.judge(timing(30_000, 495)), (Verdict::Fits, Verdict::TooSlow), "an A100 for an H100");
        assert_eq!(propose(&timings[..4]), Err(WindowError::TooFew(4)));
        assert!(matches!(propose(&[timing(300, 300); 5]), Err(WindowError::NoMemory { .. })));
        assert!(propose(&[timing(u32::MAX, u32::MAX); 5]).is_err());
        assert!(propose(&[timing(0, 0); 5]).is_err());
    }
}
