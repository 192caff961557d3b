use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;

use super::*;

/// A gateway on a real socket that answers everything so.
async fn gateway(status: StatusCode, said: &'static str, after: Duration) -> Caller {
    let answer = move |headers: HeaderMap, body: String| async move {
        assert!(headers["authorization"].to_str().unwrap().starts_with("Bearer kk-"));
        assert!(body.contains("\"prompt\":\"what\"") && body.contains("koinon-system/challenge-1"), "{body}");
        tokio::time::sleep(after).await;
        (status, said)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let caller = Caller::new(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let router = Router::new().route("/v1/completions", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    caller
}

async fn asked(status: StatusCode, said: &'static str) -> Result<String, CallError> {
    let caller = gateway(status, said, Duration::ZERO).await;
    caller.ask("koinon-system/challenge-1", "what", Duration::from_secs(5)).await
}

#[tokio::test]
async fn the_text_of_a_completion_is_the_answer() {
    let text = asked(StatusCode::OK, r#"{"id": "x", "choices": [{"index": 0, "text": "that"}]}"#).await;
    assert_eq!(text, Ok("that".to_owned()));
}

#[tokio::test]
async fn what_is_no_completion_is_no_answer_and_what_cannot_be_sent_yet_may_be_tried_again() {
    for said in ["", "{}", r#"{"choices": []}"#] {
        assert!(matches!(asked(StatusCode::OK, said).await, Err(CallError::Unanswered(_))), "{said}");
    }
    let endless: &'static str = Box::leak("x".repeat(MOST_BYTES + 1).into_boxed_str());
    assert!(matches!(asked(StatusCode::OK, endless).await, Err(CallError::Unanswered(_))));
    assert!(matches!(asked(StatusCode::INTERNAL_SERVER_ERROR, "{}").await, Err(CallError::Unanswered(_))));
    for early in [StatusCode::UNAUTHORIZED, StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE] {
        assert!(matches!(asked(early, "not yet").await, Err(CallError::NotYet(_))), "{early}");
    }
}

#[tokio::test]
async fn patience_ends() {
    let caller = gateway(StatusCode::OK, "", Duration::from_secs(60)).await;
    let late = caller.ask("koinon-system/challenge-1", "what", Duration::from_millis(50)).await;
    assert!(matches!(&late, Err(CallError::Unanswered(why)) if why.contains("no answer within")), "{late:?}");
}
