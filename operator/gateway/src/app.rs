//! The listener for applications of this cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use koinon_core::ids::Namespace;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::dispatch::{Answer, Dispatcher, EPOCH, MEMBER, MODEL_DIGEST, REQUEST_ID, request_id};
use crate::intake::{Caller, Intake};
use crate::keys::{KeyId, Keys};
use crate::metrics::{Counted, Side};
use crate::openai::{ApiError, Call, Head};
use crate::relay::{Account, Form, Relay, form_of};
use crate::routing::{Found, Route, RoutingTable};
use crate::unread;

/// What calls of applications are answered with.
#[derive(Clone)]
pub struct App {
    /// Where calls go at this moment.
    pub table: watch::Receiver<Arc<RoutingTable>>,
    /// Who may call.
    pub keys: watch::Receiver<Arc<Keys>>,
    /// Sends them.
    pub dispatcher: Dispatcher,
    /// Bounds them.
    pub intake: Intake,
}

/// The routes.
pub fn router(app: App) -> Router {
    let call = |call: Call| {
        post(move |State(app): State<App>, request: Request| async move { app.answer(call, request).await })
    };
    let most = app.intake.limit();
    let routes = Call::ALL
        .into_iter()
        .fold(Router::new(), |router, each| router.route(each.path(), call(each)))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .fallback(not_served)
        .method_not_allowed_fallback(not_served)
        .with_state(app);
    unread::read_on(routes, most)
}

async fn not_served(method: Method, uri: axum::http::Uri) -> ApiError {
    let path: String = uri.path().chars().take(100).collect();
    ApiError::NotServed(format!("{method} {path}"))
}

async fn models(State(app): State<App>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    let (_, allowed) = app.allowed(&headers)?;
    let table = app.table.borrow().clone();
    let data: Vec<Value> = table.callable(&allowed).into_iter().map(described).collect();
    Ok(Json(json!({ "object": "list", "data": data })))
}

async fn model(State(app): State<App>, Path(id): Path<String>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    let (_, allowed) = app.allowed(&headers)?;
    let table = app.table.borrow().clone();
    let found = table.callable(&allowed).into_iter().find(|(name, namespace, _)| {
        *name == id || id.strip_prefix(namespace.as_str()).and_then(|rest| rest.strip_prefix('/')) == Some(name)
    });
    found.map(|found| Json(described(found))).ok_or(ApiError::ModelNotFound { model: id })
}

fn described((name, namespace, model): (String, &Namespace, &crate::routing::Model)) -> Value {
    json!({ "id": name, "object": "model", "created": model.created, "owned_by": namespace, "digest": model.digest })
}

impl App {
    fn allowed(&self, headers: &HeaderMap) -> Result<(KeyId, BTreeSet<Namespace>), ApiError> {
        let value = headers.get(header::AUTHORIZATION).ok_or(ApiError::InvalidApiKey)?.as_bytes();
        let (scheme, key) = value.split_at_checked(7).ok_or(ApiError::InvalidApiKey)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(ApiError::InvalidApiKey);
        }
        let keys = self.keys.borrow();
        keys.find(key.trim_ascii()).map(|(id, namespaces)| (id, namespaces.clone())).ok_or(ApiError::InvalidApiKey)
    }

    async fn answer(&self, call: Call, request: Request) -> Response<Body> {
        let begun = Instant::now();
        let id = request_id(request.headers());
        let mut counted = Counted::new(&self.dispatcher.metrics, Side::App);
        let mut response = match self.call(call, request, &id).await {
            Ok((response, route)) => {
                counted.member = Some(route.member.clone());
                response
            }
            Err(error) => {
                tracing::info!(request_id = ?id, code = error.code(), %error, "refused a call");
                error.into_response()
            }
        };
        counted.code = response.status().as_u16();
        tracing::debug!(request_id = ?id, code = counted.code, ms = begun.elapsed().as_millis(), "answered a call");
        response.headers_mut().insert(HeaderName::from_static(REQUEST_ID), id);
        response
    }

    async fn call(
        &self,
        call: Call,
        request: Request,
        id: &HeaderValue,
    ) -> Result<(Response<Body>, Arc<Route>), ApiError> {
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        // The key before the body: a stranger gets no memory.
        let (key, allowed) = self.allowed(&headers)?;
        let caller = Caller::Key(key);
        let mut admitted = self.intake.admit(&self.dispatcher.metrics, &caller)?;
        let taken = self.intake.read(&caller, &headers, body).await?;
        admitted.begun = Instant::now();
        let head = Head::read(&taken.bytes)?;
        let table = self.table.borrow().clone();
        let (name, model) = match table.find(&head.model, &allowed) {
            Found::One { name, model, .. } => (name, model),
            Found::None => return Err(ApiError::ModelNotFound { model: head.model }),
            Found::Several(namespaces) => {
                let names: Vec<_> = namespaces.iter().map(|namespace| format!("{namespace}/{}", head.model)).collect();
                return Err(ApiError::ModelAmbiguous { names: names.join(", ") });
            }
        };
        if model.routes.is_empty() && !model.halted.is_empty() {
            let why: Vec<&str> = model.halted.iter().map(String::as_str).collect();
            return Err(ApiError::HostHalted { model: head.model, why: why.join("; ") });
        }
        if model.routes.is_empty() {
            return Err(ApiError::NoRoute { model: head.model });
        }
        let sent = head.rewrite(&taken.bytes, name.as_str());
        headers.insert(REQUEST_ID, id.clone());
        let answer = self.dispatcher.call(call, &model.routes, &headers, &sent).await?;
        let Answer { route, head: answered, first, rest, entered } = answer;
        let form = form_of(&answered, !head.wants_usage);
        let mut account = Account::new(self.dispatcher.metrics.clone(), Side::App, route.member.clone(), admitted);
        account.entered = Some(entered);
        let relay = Relay::new(rest, first, form, self.dispatcher.patience.idle, account);
        Ok((finish(answered, form, relay, &route), route))
    }
}

fn finish(head: Response<()>, form: Form, relay: Relay, route: &Route) -> Response<Body> {
    let mut response = head.map(|()| relay.into_body());
    let headers = response.headers_mut();
    if let Form::Stream { .. } = form {
        // An event may be taken out or put in.
        headers.remove(header::CONTENT_LENGTH);
    }
    let evidence = [
        (MEMBER, route.member.to_string()),
        (MODEL_DIGEST, route.digest.to_string()),
        (EPOCH, route.epoch.to_string()),
    ];
    for (name, value) in evidence {
        // Ids and numbers are always header values.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}
