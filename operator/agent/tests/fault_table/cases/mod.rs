//! The faults of the catalogue, F01 to F30 but for the generated F24 and F25, and what is expected of each.

mod confidential;
mod devices;
mod driver;
mod events;
mod figures;
mod identity;
mod memory;
mod usage;

use crate::cell::Case;

/// All of them, by number.
pub fn all() -> Vec<Case> {
    let mut all = [
        driver::cases(),
        devices::cases(),
        events::cases(),
        memory::cases(),
        identity::cases(),
        usage::cases(),
        figures::cases(),
        confidential::cases(),
    ]
    .concat();
    all.sort_by_key(|case| case.fault);
    all
}
