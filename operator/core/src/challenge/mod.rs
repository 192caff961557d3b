//! A challenge: work that another member gives a host's GPUs, whose answer everybody can check.
//!
//! A device computes a matrix that fills its memory ([`Size`], [`matrix`]), says that it is done, and is then asked for the
//! digest of that matrix under a salt which it could not know ([`secret`], [`tree`]). Only then it learns which rows are looked
//! at; they are computed again by whoever wants to ([`Check`]). What others are shown is the [`Transcript`].
//!
//! ```text
//!  challenger                                            engine in the host's guest pod
//!  begin {seed, size, devices, commitment} ────────────▶ every device computes its matrix C = A·B
//!            compute window                ◀──────────── computed
//!  recall {salt} ──────────────────────────────────────▶ every device hashes all rows of C under the salt
//!            recall window (short)         ◀──────────── one root for each device
//!  open {secret} ──────────────────────────────────────▶ secret and roots choose the rows
//!                                          ◀──────────── the path of each row
//! ```
//!
//! The product is the slow part and the digest the quick one, so a device that did not keep the matrix cannot answer the second
//! question in time: it would have to multiply again. The digest has no known short cut, reads every byte of the matrix, and
//! cannot begin before the salt is known; so it is the recall window that shows the memory, and the speed of the device.
//!
//! All is exact: entries are whole numbers of 7 bits, sums are whole numbers of 32 bits that cannot overflow, so every device
//! and every order of additions gives the same bytes.

mod asking;
mod attestation;
mod check;
pub mod matrix;
pub mod message;
#[cfg(any(test, feature = "testkit"))]
pub mod prover;
mod secret;
pub mod standing;
mod task;
pub mod timing;
mod transcript;
pub mod tree;

pub use asking::{Asking, AskingError, Computing, Opening, Recalling};
pub use attestation::{ATTESTED_NOT_AVAILABLE, Attestation, AttestationError, NotAvailableHere};
pub use check::{Check, Checked, Refuted};
pub use message::{Ask, MessageError, Reply};
pub use secret::{Commitment, Salt, Secret, asked_rows};
pub use standing::{Judged, NotCounted, Passed, Rule, level};
pub use task::{DEPTH, MAX_DEVICES, Nonce, Occasion, ROWS, Seed, Size, SizeError, Task, rows_each};
pub use timing::{Timing, Verdict, Window, WindowError, Windows, judge, propose};
pub use transcript::{Answer, MAX_TRANSCRIPT, Transcript, TranscriptError};

/// What a passed challenge shows and what it does not, for people.
pub const WHAT_IT_PROVES: &str = "\
What a passed challenge shows: at that time, something that the host's gateway answered from had, for each device that was
asked at once, the memory of the class filled with a matrix that nobody could know before, and hashed all of it as fast as a
device of that class does. A host without GPUs, with smaller or slower ones, with fewer than it says, with one sold twice, or
with GPUs that others use heavily meanwhile does not pass.

What it does not show: that the devices stand at that host (an identical GPU elsewhere can answer for it), that the voted engine
ran on them (other software on other hardware that is as fast and has the memory can answer too), that challenger and host are
not in league (so several challengers without ties to the host have to agree), and what the GPUs do afterwards. A tenth of the
matrix may be missing and not be noticed in 43 of 100 challenges; half of it, in 1 of 256. Evidence ends after 24 hours, and
never raises what is offered above what the host's own figures allow.";

#[cfg(test)]
mod properties;
