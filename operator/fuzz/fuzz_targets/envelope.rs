//! Bytes that claim to be an envelope, as they come from a peer, a file or an API server.

#![no_main]

use koinon_core::dsse::Envelope;
use koinon_core::founding::Founding;
use koinon_core::statement::Statement;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(envelope) = Envelope::from_json(bytes) else { return };
    assert_eq!(Envelope::from_json(&envelope.to_json()).as_ref(), Ok(&envelope));
    if let Ok(statement) = Statement::verify(envelope.clone()) {
        assert_eq!(statement.envelope(), &envelope);
    }
    let _ = Founding::verify(envelope);
});
