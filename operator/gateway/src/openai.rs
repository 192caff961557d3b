//! The little that a gateway has to know of the OpenAI API: three paths, three fields of a request, the shape of an error.
//!
//! A request is never decoded and written anew: what is not one of the three fields travels byte for byte.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::intake::Shared;

/// Set on every answer that a gateway itself gives instead of an engine, so that the other gateway can tell them apart.
pub const GATEWAY_ERROR: &str = "koinon-gateway-error";

/// What can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A conversation.
    ChatCompletions,
    /// A text to go on with.
    Completions,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::ChatCompletions, Self::Completions];

    /// The path, the same at gateways and engines.
    pub fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

/// Every refusal of a gateway. The code is for programs, the message for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No key, or not one of ours.
    #[error(
        "this gateway needs an API key: send `Authorization: Bearer kk-…`; an admin makes one with `kubectl koinon apikey`"
    )]
    InvalidApiKey,
    /// The body is not a request.
    #[error("{0}")]
    InvalidRequest(String),
    /// The body is too long.
    #[error("the request has more than the {limit} bytes that are allowed")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The body broke off.
    #[error("the request broke off before its end")]
    BrokenRequest,
    /// The body did not come in time.
    #[error("the request did not arrive within {seconds} s")]
    SlowRequest {
        /// How long was waited.
        seconds: u64,
    },
    /// No job of that name that the key may call.
    #[error("the model `{model}` does not exist or this key may not call it")]
    ModelNotFound {
        /// As asked for.
        model: String,
    },
    /// Several namespaces serve that name.
    #[error("several namespaces serve this model; ask for one of: {names}")]
    ModelAmbiguous {
        /// The names to choose from.
        names: String,
    },
    /// The job is there and nothing serves it at present.
    #[error("the model `{model}` has no replica that can be routed to at present; see `kubectl koinon explain`")]
    NoRoute {
        /// As asked for.
        model: String,
    },
    /// The job is there, and who would serve it may not work.
    #[error("the model `{model}` has no replica that can be routed to at present: {why}; see `kubectl koinon explain`")]
    HostHalted {
        /// As asked for.
        model: String,
        /// Who, and why.
        why: String,
    },
    /// Between gateways: the caller or this member may not work.
    #[error("{0}: no call of or for a member that may not work is answered")]
    MemberHalted(String),
    /// Too much at once.
    #[error("this gateway has as much work as it takes; try again")]
    Overloaded,
    /// One caller has so much that others would go without.
    #[error(
        "this caller has {held} of the {most} {of}, and {free} are free: nobody gets more than is left for others; try again"
    )]
    OverShare {
        /// What it has too much of.
        of: Shared,
        /// What it has.
        held: usize,
        /// What nobody has.
        free: usize,
        /// What there is.
        most: usize,
    },
    /// Between gateways: one placement has so many calls that others would go without.
    #[error(
        "the placement {replica} has {most} calls in flight: {concurrency} at a time (maxConcurrency) and a queue; try again"
    )]
    PlacementFull {
        /// The replica.
        replica: String,
        /// Calls that it may have in flight.
        most: usize,
        /// Calls that it works on at a time.
        concurrency: usize,
    },
    /// No replica answered.
    #[error("no replica of the model could answer: {0}")]
    UpstreamFailed(String),
    /// No replica could be reached, or none that was holds the copy that counts.
    #[error("no replica of the model can be reached at present: {0}")]
    Unreachable(String),
    /// Every replica has as much work as it takes.
    #[error("every replica of the model has as much work as it takes; try again")]
    Busy,
    /// A replica took too long before its first byte.
    #[error("no replica of the model began to answer within {seconds} s")]
    TimedOut {
        /// How long was waited.
        seconds: u64,
    },
    /// A path or method that is not served.
    #[error("{0} is not served here; there are GET /v1/models, POST /v1/chat/completions and POST /v1/completions")]
    NotServed(String),
    /// Between gateways: another copy of the replica counts now.
    #[error("epoch {asked} of {replica} is fenced; this host holds epoch {held}")]
    EpochFenced {
        /// The replica.
        replica: String,
        /// As asked for.
        asked: u64,
        /// What this host holds.
        held: u64,
    },
    /// Between gateways: no such placement of that member here.
    #[error("no placement {replica} of {home} is held here")]
    PlacementNotFound {
        /// The replica.
        replica: String,
        /// The member that called.
        home: String,
    },
    /// Between gateways: it is there and does not answer yet, or no longer.
    #[error("the placement {replica} is not ready here")]
    NotReady {
        /// The replica.
        replica: String,
    },
    /// Between gateways: not a member any more.
    #[error("{0} may not call this gateway")]
    Forbidden(String),
}

impl ApiError {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidApiKey => StatusCode::UNAUTHORIZED,
            Self::InvalidRequest(_) | Self::BrokenRequest | Self::ModelAmbiguous { .. } => StatusCode::BAD_REQUEST,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowRequest { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::ModelNotFound { .. } | Self::PlacementNotFound { .. } | Self::NotServed(_) => StatusCode::NOT_FOUND,
            Self::NoRoute { .. }
            | Self::HostHalted { .. }
            | Self::Overloaded
            | Self::NotReady { .. }
            | Self::Unreachable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Busy | Self::OverShare { .. } | Self::PlacementFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamFailed(_) => StatusCode::BAD_GATEWAY,
            Self::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::EpochFenced { .. } => StatusCode::CONFLICT,
            Self::Forbidden(_) | Self::MemberHalted(_) => StatusCode::FORBIDDEN,
        }
    }

    /// The code of the answer.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidApiKey => "invalid_api_key",
            Self::InvalidRequest(_) | Self::BrokenRequest => "invalid_request",
            Self::TooLarge { .. } => "request_too_large",
            Self::SlowRequest { .. } => "request_timeout",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::ModelAmbiguous { .. } => "model_ambiguous",
            Self::NoRoute { .. } => "no_routable_placement",
            Self::Overloaded => "overloaded",
            Self::UpstreamFailed(_) => "upstream_failed",
            Self::Unreachable(_) => "no_reachable_replica",
            Self::Busy | Self::OverShare { .. } | Self::PlacementFull { .. } => "rate_limit_exceeded",
            Self::TimedOut { .. } => "timeout",
            Self::NotServed(_) => "not_found",
            Self::EpochFenced { .. } => "epoch_fenced",
            Self::PlacementNotFound { .. } => "placement_not_found",
            Self::NotReady { .. } => "not_ready",
            Self::Forbidden(_) => "forbidden",
            Self::HostHalted { .. } | Self::MemberHalted(_) => "member_halted",
        }
    }

    fn retry_after_seconds(&self) -> Option<u32> {
        match self {
            // A placement takes seconds to minutes; a full gateway has room again within one answer.
            Self::NoRoute { .. } | Self::HostHalted { .. } | Self::NotReady { .. } | Self::Unreachable(_) => Some(5),
            Self::Overloaded | Self::Busy | Self::OverShare { .. } | Self::PlacementFull { .. } => Some(1),
            _ => None,
        }
    }

    /// The body of the answer.
    pub fn body(&self) -> Value {
        let kind = if self.status().is_server_error() { "server_error" } else { "invalid_request_error" };
        let param = match self {
            Self::ModelNotFound { .. } | Self::ModelAmbiguous { .. } => Some("model"),
            _ => None,
        };
        let mut error = json!({ "message": self.to_string(), "type": kind, "param": param, "code": self.code() });
        if let Self::EpochFenced { held, .. } = self {
            error["epoch"] = json!(held);
        }
        json!({ "error": error })
    }

    /// The error as the last event of a stream that had already begun.
    pub fn event(&self) -> Bytes {
        format!("data: {}\n\n", self.body()).into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        response.headers_mut().insert(GATEWAY_ERROR, HeaderValue::from_static(self.code()));
        if let Some(seconds) = self.retry_after_seconds() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self == Self::InvalidApiKey {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// What was read of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The model, as the client names it.
    pub model: String,
    /// Whether it wants a stream.
    pub stream: bool,
    /// Whether it wants the chunk with the usage at the end of the stream.
    pub wants_usage: bool,
    model_at: Range<usize>,
    options: Options,
}

/// The `stream_options` of a request, which must ask for the usage when it leaves the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Options {
    /// They do already, or there is no stream.
    Fine,
    /// There are none.
    Absent,
    /// They are to be replaced.
    Replace(Range<usize>, String),
}

impl Head {
    /// Reads the three fields. A field that stands twice is refused: engines and gateways may take different ones.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        let invalid = |what: String| ApiError::InvalidRequest(what);
        let text = std::str::from_utf8(body).map_err(|_| invalid("the request is not UTF-8".to_owned()))?;
        let fields: Fields<'_> = serde_json::from_str(text)
            .map_err(|error| invalid(format!("the request is not a JSON object: {error}")))?;
        // Raw values borrow from the text, so the distance of their beginnings is their place in it.
        let at = |raw: &RawValue| {
            let start = raw.get().as_ptr() as usize - text.as_ptr() as usize;
            start..start + raw.get().len()
        };
        let raw_model = fields.model.ok_or_else(|| invalid("the request names no `model`".to_owned()))?;
        let model: String =
            serde_json::from_str(raw_model.get()).map_err(|_| invalid("`model` must be a string".to_owned()))?;
        let stream = match fields.stream.map(RawValue::get) {
            None | Some("null" | "false") => false,
            Some("true") => true,
            Some(_) => return Err(invalid("`stream` must be true or false".to_owned())),
        };
        let (options, wants_usage) = match fields.stream_options {
            _ if !stream => (Options::Fine, false),
            None => (Options::Absent, false),
            Some(raw) => {
                let given: Option<Map<String, Value>> = serde_json::from_str(raw.get())
                    .map_err(|_| invalid("`stream_options` must be an object".to_owned()))?;
                let mut given = given.unwrap_or_default();
                if given.get("include_usage") == Some(&Value::Bool(true)) {
                    (Options::Fine, true)
                } else {
                    given.insert("include_usage".to_owned(), Value::Bool(true));
                    (Options::Replace(at(raw), Value::Object(given).to_string()), false)
                }
            }
        };
        Ok(Self { model, stream, wants_usage, model_at: at(raw_model), options })
    }

    /// The request as it goes on: under the name that the engine knows, and asking for the usage. All else is untouched.
    pub fn rewrite(&self, body: &Bytes, served_name: &str) -> Bytes {
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        if self.model != served_name {
            edits.push((self.model_at.clone(), Value::from(served_name).to_string()));
        }
        match &self.options {
            Options::Fine => {}
            // The object has a `model`, so something follows and the comma is right.
            Options::Absent => {
                let after = body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
                edits.push((after..after, r#""stream_options":{"include_usage":true},"#.to_owned()));
            }
            Options::Replace(at, with) => edits.push((at.clone(), with.clone())),
        }
        if edits.is_empty() {
            return body.clone();
        }
        edits.sort_by_key(|(at, _)| at.start);
        let mut rewritten = Vec::with_capacity(body.len() + 128);
        let mut done = 0;
        for (at, with) in edits {
            rewritten.extend_from_slice(&body[done..at.start]);
            rewritten.extend_from_slice(with.as_bytes());
            done = at.end;
        }
        rewritten.extend_from_slice(&body[done..]);
        rewritten.into()
    }
}

/// The three fields, where they stand in the text.
#[derive(Default)]
struct Fields<'a> {
    model: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    stream_options: Option<&'a RawValue>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key::<Key<'de>>()? {
                    let field = match key.0.as_ref() {
                        "model" => &mut fields.model,
                        "stream" => &mut fields.stream,
                        "stream_options" => &mut fields.stream_options,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    if field.replace(map.next_value()?).is_some() {
                        return Err(A::Error::custom(format!("`{}` stands twice", key.0)));
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A key, borrowed unless it is written with escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(body: &str, name: &str) -> String {
        let body = Bytes::copy_from_slice(body.as_bytes());
        String::from_utf8(Head::read(&body).unwrap().rewrite(&body, name).to_vec()).unwrap()
    }

    #[test]
    fn what_the_gateway_does_not_know_travels_byte_for_byte() {
        let body =
            "{ \"model\" : \"m\",\n  \"temperature\": 1.50, \"n\":1e0, \"x\":{\"b\":1,\"a\":[ ]}, \"stream\":false }";
        assert_eq!(rewritten(body, "m"), body);
    }

    #[test]
    fn a_qualified_name_becomes_the_name_that_the_engine_knows() {
        let body = r#"{"seed":7,"model":"team/m","messages":[{"role":"user","content":"say \"model\""}]}"#;
        let expected = r#"{"seed":7,"model":"m","messages":[{"role":"user","content":"say \"model\""}]}"#;
        assert_eq!(rewritten(body, "m"), expected);
    }

    #[test]
    fn a_stream_always_asks_for_its_usage_and_the_gateway_remembers_whether_the_client_did() {
        for (options, wants, sent) in [
            ("", false, r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#),
            (
                r#","stream_options":null"#,
                false,
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#","stream_options":{"include_usage":true}"#,
                true,
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#","stream_options":{"other":1,"include_usage":false}"#,
                false,
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"other":1}}"#,
            ),
        ] {
            let body = format!(r#"{{"model":"m","stream":true{options}}}"#);
            assert_eq!(Head::read(body.as_bytes()).unwrap().wants_usage, wants, "{body}");
            assert_eq!(rewritten(&body, "m"), sent);
            serde_json::from_str::<Value>(&rewritten(&body, "other")).unwrap();
        }
    }

    #[test]
    fn a_field_that_stands_twice_is_refused_however_it_is_spelled() {
        for body in [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","mod\u0065l":"b"}"#,
            r#"{"model":"a","stream":true,"stream":false}"#,
        ] {
            let error = Head::read(body.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("stands twice"), "{error}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_with_what_is_wrong() {
        for (body, said) in [
            (&b"[1]"[..], "not a JSON object"),
            (b"{\"model\":\"m\"} trailing", "not a JSON object"),
            (b"{\"stream\":true}", "names no `model`"),
            (b"{\"model\":7}", "`model` must be a string"),
            (b"{\"model\":\"m\",\"stream\":\"yes\"}", "`stream` must be"),
            (b"{\"model\":\"m\",\"stream\":true,\"stream_options\":[]}", "`stream_options` must be"),
            (b"\xff\xfe", "not UTF-8"),
        ] {
            let error = Head::read(body).unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn depth_that_would_overflow_a_stack_does_no_harm() {
        let deep = format!(r#"{{"model":"m","x":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(rewritten(&deep, "m").len(), deep.len());
    }

    #[test]
    fn errors_have_the_shape_that_clients_of_openai_read() {
        let body = ApiError::ModelNotFound { model: "x".to_owned() }.body();
        assert_eq!(body["error"]["code"], "model_not_found");
        assert_eq!(body["error"]["param"], "model");
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert!(body["error"]["message"].as_str().unwrap().contains("`x`"));
        let fenced = ApiError::EpochFenced { replica: "u/0".to_owned(), asked: 3, held: 4 };
        assert_eq!((fenced.status(), &fenced.body()["error"]["epoch"]), (StatusCode::CONFLICT, &json!(4)));
    }
}
