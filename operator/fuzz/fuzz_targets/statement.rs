//! What somebody with a key signs: every kind of statement, with any body.

#![no_main]

use koinon_core::body::Body;
use koinon_core::founding::Founding;
use koinon_core::json;
use koinon_core::statement::Statement;
use serde_json::Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let strict = json::check(bytes).is_ok();
    let Ok(Value::Object(payload)) = serde_json::from_slice(bytes) else { return };
    let people = koinon_fuzz::people();
    let Some(envelope) = koinon_fuzz::sign(&people, payload) else { return };
    let Ok(statement) = Statement::verify(envelope.clone()) else { return };
    assert_eq!(Statement::verify(envelope.clone()).as_ref(), Ok(&statement));
    if let (true, Some(kind)) = (strict, statement.body().kind()) {
        assert_eq!(kind, *statement.kind());
        assert!(statement.body().since_rules() <= statement.header().rules);
    }
    match statement.body() {
        Body::Charter(_) => drop(Founding::verify(envelope)),
        Body::Opaque(_) => assert!(statement.understood().is_err()),
        // What is read and written again says the same.
        body => assert!(body.to_json().is_some()),
    }
});
