//! Statements as a release with fewer rules reads them: a cooperative goes on while not all of its members have upgraded.

use super::Statement;
use crate::body::{Action, Body, Opaque};

impl Statement {
    /// This as a release reads it whose highest rules are `rules`.
    pub fn as_read_by(&self, rules: u32) -> Self {
        let mut read = self.clone();
        read.nested = self.nested.as_ref().map(|nested| Box::new(nested.as_read_by(rules)));
        if self.header.rules > rules {
            (read.body, read.nested) = (Body::Opaque(Opaque::UnsupportedRules(self.header.rules)), None);
        }
        // The step to rules that it cannot decide by is nothing that it could take.
        if let Body::Proposal(proposal) = &read.body
            && matches!(&proposal.action, Action::SetRules(set) if set.rules > rules)
        {
            read.body = Body::Opaque(Opaque::Malformed("its rules are not known".to_owned()));
        }
        read
    }
}
