//! A value that somebody else's library gave, or why it did not.

/// A value, or why there is none. Unknown is neither zero nor healthy; unsupported is neither unknown nor bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading<T> {
    /// The driver gave it.
    Known(T),
    /// This device or this driver has no such value.
    Unsupported,
    /// It should be there and could not be read.
    Unknown(Gap),
}

/// Why a value could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// The driver no longer reaches the device.
    Lost,
    /// The device does not work before its next reset.
    ResetRequired,
    /// This process may not ask.
    NoPermission,
    /// Not text, or a value that no device has.
    Implausible,
    /// It changed while it was read, more often than it was asked for.
    Unstable,
    /// Library, driver and agent are of versions that do not fit.
    VersionMismatch,
    /// The device is not ready yet.
    NotReady,
    /// The survey failed before it came to that.
    NotAsked,
    /// Any other return code of NVML.
    Code(u32),
}

impl<T> Reading<T> {
    /// The value, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unsupported | Self::Unknown(_) => None,
        }
    }

    /// Why it is not known although it should be.
    pub fn gap(&self) -> Option<Gap> {
        match self {
            Self::Unknown(gap) => Some(*gap),
            Self::Known(_) | Self::Unsupported => None,
        }
    }

    /// Whether the device has such a value at all, read or not.
    pub fn is_supported(&self) -> bool {
        !matches!(self, Self::Unsupported)
    }

    /// The same about another value.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Reading<U> {
        match self {
            Self::Known(value) => Reading::Known(make(value)),
            Self::Unsupported => Reading::Unsupported,
            Self::Unknown(gap) => Reading::Unknown(gap),
        }
    }

    /// The same, unless it is a value that no device has.
    pub fn plausible(self, accept: impl FnOnce(&T) -> bool) -> Self {
        match self {
            Self::Known(value) if !accept(&value) => Self::Unknown(Gap::Implausible),
            other => other,
        }
    }
}

impl<T: Copy> Reading<T> {
    /// The value, if it is known.
    pub fn get(&self) -> Option<T> {
        self.known().copied()
    }
}
