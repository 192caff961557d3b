use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, put};
use axum::{Json, Router};
use koinon_core::ids::Digest;
use serde_json::{Value, json};

use super::*;

type Asked = Arc<Mutex<Vec<(String, Value)>>>;

fn digest() -> ManifestDigest {
    ManifestDigest(Digest([0xab; 32]))
}

fn secret() -> Token {
    Token("secret".to_owned())
}

fn size(text: &str) -> cooperative::Weights {
    serde_json::from_value(json!({"size": text})).unwrap()
}

async fn serve(app: Router) -> WeightsCache {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    WeightsCache::new(&format!("http://{address}/")).unwrap()
}

#[tokio::test]
async fn a_model_is_asked_for_with_the_owner_s_sources_and_size_and_the_token() {
    let asked = Asked::default();
    let want = |State(asked): State<Asked>, headers: HeaderMap, Json(body): Json<Value>| async move {
        let token = headers["authorization"].to_str().unwrap().to_owned();
        asked.lock().unwrap().push((token, body));
        (
            StatusCode::ACCEPTED,
            Json(json!({"digest": digest().to_string(), "state": "Fetching", "bytes": 3, "total": 9})),
        )
    };
    let cache = serve(Router::new().route("/v1/models/{digest}", put(want)).with_state(asked.clone())).await;
    let source = WantSource {
        prefix: "hf://".to_owned(),
        mirror: "https://mirror.example".to_owned(),
        token: Some(Token("hunter2".to_owned())),
        ca_bundle: None,
    };
    assert!(!format!("{source:?}").contains("hunter2"));
    let want = Want {
        uri: "hf://org/model".parse().unwrap(),
        revision: Some("main".parse().unwrap()),
        sources: vec![source],
        capacity: capacity(&size("200Gi")).unwrap(),
    };
    let state = cache.want(digest(), &want, &secret()).await.unwrap();
    assert_eq!(state, Weights::Fetching { bytes: 3, total: Some(9) });
    let (token, body) = asked.lock().unwrap().remove(0);
    assert_eq!(token, "Bearer secret");
    let source = json!({"match": "hf://", "mirror": "https://mirror.example", "token": "hunter2"});
    let capacity = 200_u64 << 30;
    assert_eq!(body, json!({"uri": "hf://org/model", "revision": "main", "sources": [source], "capacity": capacity}));
}

/// An API server that has these Secrets and nothing else.
async fn api_server(secrets: &[(&str, Value)]) -> Client {
    let secrets: BTreeMap<String, Value> = secrets
        .iter()
        .map(|(name, data)| {
            (format!("/api/v1/namespaces/ours/secrets/{name}"), json!({"metadata": {"name": name}, "data": data}))
        })
        .collect();
    let app = Router::new().fallback(move |uri: axum::http::Uri| async move {
        match secrets.get(uri.path()) {
            Some(secret) => (StatusCode::OK, Json(secret.clone())),
            None => {
                let status = json!({"kind": "Status", "status": "Failure", "message": "not found", "reason": "NotFound",
                    "code": 404});
                (StatusCode::NOT_FOUND, Json(status))
            }
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap()
}

fn owners(sources: Value) -> Vec<Source> {
    serde_json::from_value(sources).unwrap()
}

#[tokio::test]
async fn a_source_without_its_secret_is_a_failure_that_names_secret_namespace_and_entry() {
    let client = api_server(&[("other", json!({"password": "eA=="})), ("blank", json!({"token": "Cg=="}))]).await;
    let uri: ModelUri = "hf://org/model".parse().unwrap();
    for (name, wrong) in [("missing", "there is no Secret"), ("other", "has no entry"), ("blank", "is empty; fill it")]
    {
        let spec = owners(json!([{"match": "hf://", "mirror": "https://m.example/", "secretRef": {"name": name}}]));
        let read = sources(&client, "ours", &spec).await;
        assert!(read.lacking());
        let error = WeightsError::from(read.usable_for(&uri).unwrap_err());
        let failure = error.failure().unwrap();
        assert_eq!((shown(failure.reason), is_final(failure.reason)), (Reason::CredentialsMissing, false));
        for told in [wrong, &format!("Secret ours/{name}"), "`token`", "hf://", "spec.sources"] {
            assert!(failure.message.contains(told), "{told}: {}", failure.message);
        }
    }
    let spec = json!([{"match": "hf://", "mirror": "https://m.example/", "caBundleRef": {"name": "ca"}}]);
    let error = sources(&client, "ours", &owners(spec)).await.usable_for(&uri).unwrap_err().to_string();
    assert!(error.contains("ConfigMap ours/ca") && error.contains("`ca.crt`"), "{error}");
}

#[tokio::test]
async fn a_source_without_its_secret_holds_up_no_model_of_another_source() {
    let client = api_server(&[("there", json!({"token": "c2VjcmV0Cg=="}))]).await;
    let spec = owners(json!([
        {"match": "hf://", "mirror": "https://m.example/", "secretRef": {"name": "there"}},
        {"match": "hf://closed/", "mirror": "https://c.example/", "secretRef": {"name": "missing"}},
    ]));
    let read = sources(&client, "ours", &spec).await;
    let usable = read.usable_for(&"hf://open/model".parse().unwrap()).unwrap();
    assert_eq!(usable.len(), 1);
    assert_eq!(usable[0].token, Some(Token("secret".to_owned())));
    // Its token is not sent to the mirror of the shorter prefix, nor is the model fetched from there without one.
    assert!(read.usable_for(&"hf://closed/model".parse().unwrap()).is_err());
}

#[test]
fn a_size_of_the_cache_that_cannot_be_read_is_no_unlimited_one() {
    assert_eq!(capacity(&cooperative::Weights::default()).unwrap(), None);
    let error = capacity(&size("plenty")).unwrap_err().to_string();
    assert!(error.contains("spec.weights.size") && error.contains("200Gi"), "{error}");
}

#[tokio::test]
async fn what_the_cache_holds_is_read_with_its_failures() {
    let list = |headers: HeaderMap| async move {
        assert_eq!(headers["authorization"], "Bearer secret");
        Json(json!({"models": [{"digest": digest().to_string(), "state": "Failed", "reason": "DigestMismatch",
            "message": "m", "retryInSeconds": 60, "expected": digest().to_string()}]}))
    };
    let cache = serve(Router::new().route("/v1/models", get(list))).await;
    let models = cache.list(&secret()).await.unwrap();
    let Weights::Failed(failure) = &models[&digest()] else { panic!("{models:?}") };
    assert_eq!((shown(failure.reason), is_final(failure.reason)), (Reason::DigestMismatch, true));
}

#[tokio::test]
async fn a_cache_that_answers_nonsense_or_too_much_is_an_error_and_no_empty_list() {
    let cache = serve(Router::new().route("/v1/models", get(|| async { "nonsense" }))).await;
    assert!(matches!(cache.list(&secret()).await, Err(WeightsError::Refused { status: 200, .. })));
    let cache = serve(Router::new().route("/v1/models", get(|| async { "x".repeat(MOST_BYTES + 1) }))).await;
    let error = cache.list(&secret()).await.unwrap_err().to_string();
    assert!(error.contains("more than 4194304 bytes"), "{error}");
    let cache = serve(Router::new().route("/v1/models", get(|| async { StatusCode::UNAUTHORIZED }))).await;
    assert!(matches!(cache.list(&secret()).await, Err(WeightsError::Refused { status: 401, .. })));
}

#[tokio::test]
async fn a_cache_that_is_not_there_is_named_with_what_to_check() {
    let gone = WeightsCache::new("http://127.0.0.1:1").unwrap();
    let error = gone.list(&secret()).await.unwrap_err().to_string();
    assert!(error.contains("http://127.0.0.1:1") && error.contains("koinon-weights"), "{error}");
}

/// Runs itself once more as a process that finds no certificates of certificate authorities.
#[test]
fn an_image_without_system_certificates_can_ask_the_cache() {
    const AGAIN: &str = "KOINON_TEST_WITHOUT_CERTIFICATES";
    if std::env::var_os(AGAIN).is_some() {
        WeightsCache::new("http://127.0.0.1:1").unwrap();
        return;
    }
    let name = "placement::weights::tests::an_image_without_system_certificates_can_ask_the_cache";
    let nowhere = "/nonexistent";
    let again = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .envs([(AGAIN, "1"), ("SSL_CERT_FILE", nowhere), ("SSL_CERT_DIR", nowhere)])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&again.stderr));
}
