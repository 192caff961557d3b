//! Names of objects that are made of something else. Made here alone, so that every part makes the same.
//!
//! Where a name is cut out of a digest or a key the first characters are taken without their `sha256:` or `ed25519:`.

/// How many hex digits of a digest stand in a name: 160 bits, beyond what anybody can make collide.
const DIGEST_CHARS: usize = 40;
/// How many hex digits of a key stand in a label or an own log entry's name.
const KEY_CHARS: usize = 12;

fn cut(text: &str, chars: usize) -> &str {
    let hex = text.rsplit(':').next().unwrap_or(text);
    hex.get(..chars).unwrap_or(hex)
}

/// The first 40 hex digits of an id, as labels carry them.
#[must_use]
pub fn id_label(id: &str) -> String {
    cut(id, DIGEST_CHARS).to_owned()
}

/// An own log entry: its position. Creating the object reserves it.
#[must_use]
pub fn own_entry(operator_key: &str, seq: u64) -> String {
    format!("log-{}-{seq:010}", cut(operator_key, KEY_CHARS))
}

/// Any other statement: its id.
#[must_use]
pub fn statement(id: &str) -> String {
    format!("s-{}", cut(id, DIGEST_CHARS))
}

/// A Proposal that mirrors a foreign statement.
#[must_use]
pub fn proposal(id: &str) -> String {
    format!("p-{}", cut(id, DIGEST_CHARS))
}

/// A Vote that mirrors a foreign statement.
#[must_use]
pub fn vote(id: &str) -> String {
    format!("v-{}", cut(id, DIGEST_CHARS))
}

/// A `ModelRelease`.
#[must_use]
pub fn model_release(manifest_digest: &str) -> String {
    format!("m-{}", cut(manifest_digest, DIGEST_CHARS))
}

/// A `PolicyVersion`.
#[must_use]
pub fn policy_version(scope: &str, version: &str) -> String {
    format!("{scope}-{}", cut(version, DIGEST_CHARS))
}

/// The namespace of a home member's work.
#[must_use]
pub fn guest_namespace(home: &str) -> String {
    format!("koinon-guest-{home}")
}

/// The Placement at home.
#[must_use]
pub fn home_placement(job: &str, replica: i32, epoch: i64) -> String {
    format!("{job}-{replica}-{epoch}")
}

/// The Placement at the host, and the Deployment and Service that belong to it.
#[must_use]
pub fn host_placement(home: &str, job_uid: &str, replica: i32, epoch: i64) -> String {
    format!("{home}-{}-{replica}-{epoch}", job_uid.get(..8).unwrap_or(job_uid))
}

/// The ConfigMap with the reservations on one node.
#[must_use]
pub fn reservations(node: &str) -> String {
    format!("koinon-reservations-{node}")
}

/// The ConfigMap with what remains of the log entries that a checkpoint has settled.
pub const SETTLED: &str = "koinon-settled";

/// The Lease that remembers a home's last renewal.
#[must_use]
pub fn home_lease(home: &str) -> String {
    format!("koinon-home-{home}")
}

/// The Secret of an invite for a member.
#[must_use]
pub fn invite(member: &str) -> String {
    format!("koinon-invite-{member}")
}

/// The DeviceTaintRule of a release about the device that `digest` stands for.
#[must_use]
pub fn device_taint(release_namespace: &str, digest: &str) -> String {
    format!("{release_namespace}.gpu-unhealthy.{}", cut(digest, DIGEST_CHARS))
}

/// The field manager of one controller.
#[must_use]
pub fn field_manager(controller: &str) -> String {
    format!("koinon/{controller}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const KEY: &str = "ed25519:aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899";

    #[test]
    fn names_are_cut_out_of_digests_and_keys() {
        assert_eq!(own_entry(KEY, 7), "log-aabbccddeeff-0000000007");
        assert_eq!(statement(DIGEST), "s-00112233445566778899aabbccddeeff00112233");
        assert_eq!(policy_version("membership", DIGEST), "membership-00112233445566778899aabbccddeeff00112233");
    }

    #[test]
    fn own_entries_sort_like_their_positions() {
        assert!(own_entry(KEY, 9) < own_entry(KEY, 10));
    }

    #[test]
    fn the_longest_host_name_fits_a_service() {
        let home = "a".repeat(30);
        let name = host_placement(&home, "01234567-89ab-cdef-0123-456789abcdef", 63, 9_999_999_999);
        assert_eq!(name, format!("{home}-01234567-63-9999999999"));
        assert!(name.len() <= 63);
    }

    #[test]
    fn a_malformed_id_still_makes_a_name_rather_than_a_panic() {
        assert_eq!(statement("sha256:ß"), "s-ß");
        assert_eq!(host_placement("cork", "ß", 0, 1), "cork-ß-0-1");
    }
}
