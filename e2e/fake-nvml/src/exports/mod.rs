//! The C symbols, by subject. One entry each; whatever is not here is absent, so that a client's unexpected call shows as a
//! missing symbol and not as a quiet stub. Nothing that sets, resets or clears belongs here.

mod confidential;
mod events;
mod fields;
mod health;
mod identity;
mod links;
mod memory;
mod mig;
mod processes;
mod system;
mod telemetry;

/// Defines the symbols, lists them, and holds their signatures against the ones that clients are compiled with.
macro_rules! exports {
    ($( $(#[doc = $doc:literal])+ fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty $body:block )+) => {
        /// What this subject exports.
        pub(super) const SYMBOLS: &[&str] = &[$(stringify!($name)),+];

        $(
            $(#[doc = $doc])+
            ///
            /// # Safety
            /// As in NVIDIA's documentation: pointers are null, or valid for what the function reads and writes.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)] // NVIDIA's names of the arguments.
            pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                #[allow(dead_code)]
                const SYMBOL: crate::library::Symbol = crate::library::Symbol(stringify!($name));
                $body
            }
        )+

        /// Compiles only while every signature is the one that clients call.
        #[cfg(test)]
        #[allow(dead_code)]
        fn signatures(library: &mut nvml_wrapper_sys::bindings::NvmlLib) {
            $( library.$name = Ok($name); )+
        }
    };
}
use exports;

const SUBJECTS: [&[&str]; 11] = [
    system::SYMBOLS,
    identity::SYMBOLS,
    memory::SYMBOLS,
    telemetry::SYMBOLS,
    health::SYMBOLS,
    fields::SYMBOLS,
    links::SYMBOLS,
    processes::SYMBOLS,
    mig::SYMBOLS,
    events::SYMBOLS,
    confidential::SYMBOLS,
];

const COUNT: usize = {
    let mut count = 0;
    let mut subject = 0;
    while subject < SUBJECTS.len() {
        count += SUBJECTS[subject].len();
        subject += 1;
    }
    count
};

/// Every symbol that the library exports.
pub const SYMBOLS: &[&str] = &{
    let mut all = [""; COUNT];
    let mut next = 0;
    let mut subject = 0;
    while subject < SUBJECTS.len() {
        let mut symbol = 0;
        while symbol < SUBJECTS[subject].len() {
            all[next] = SUBJECTS[subject][symbol];
            next += 1;
            symbol += 1;
        }
        subject += 1;
    }
    all
};
