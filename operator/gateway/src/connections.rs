//! How many connections a gateway keeps open for whom, beside what every listener bounds: all of them, those of one
//! address, the time of a handshake and of a request's headers.

use std::time::Duration;

/// Bounds on connections. The default fits every cooperative; tests set what they cannot wait for.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// On the members' listener: connections whose key is not known yet. When there is one more, the oldest has to go.
    pub unknown: usize,
    /// On the members' listener: connections of one member. Each of its gateway's pods needs one, and another while it
    /// replaces that.
    pub of_one_member: usize,
    /// On both listeners: how long a connection may stay open without a call. Longer than the other gateway keeps using
    /// one that is idle ([`crate::upstream::IDLE`]), so that no call meets a closing connection.
    pub idle: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self { unknown: 64, of_one_member: 32, idle: crate::upstream::IDLE + Duration::from_secs(60) }
    }
}
