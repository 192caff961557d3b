//! Looking at resources as anybody with `kubectl` can, while the story waits for something.

use std::future::Future;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::datacenter::Datacenter;
use crate::wait::Poll;

/// Resources as `kubectl get … -o json` shows them.
pub async fn get(datacenter: &Datacenter, args: &[&str]) -> Result<Value> {
    let mut all = vec!["get"];
    all.extend_from_slice(args);
    all.extend_from_slice(&["--output", "json"]);
    let printed = datacenter.kubectl(all).await?;
    serde_json::from_str(&printed).with_context(|| format!("reading what kubectl get {} printed", args.join(" ")))
}

/// The items of a list.
pub fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A resource's name.
pub fn name(resource: &Value) -> &str {
    resource["metadata"]["name"].as_str().unwrap_or_default()
}

/// A condition of a resource, by its type.
pub fn condition<'a>(resource: &'a Value, type_: &str) -> Option<&'a Value> {
    resource["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)
}

/// Polls for a condition to have a status; what was last seen is its reason and message.
pub fn when(resource: &Value, type_: &str, status: &str) -> Poll<()> {
    match condition(resource, type_) {
        Some(found) if found["status"] == status => Poll::Ready(()),
        Some(found) => Poll::not_yet(format!(
            "{type_} is {} ({}): {}",
            text(found, "status"),
            text(found, "reason"),
            text(found, "message")
        )),
        None => Poll::not_yet(format!("there is no condition {type_} yet")),
    }
}

/// A field of text, empty where it is missing.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Looks at a resource and decides; an error of `kubectl` is what was last seen.
pub fn poll<'a, T, F>(
    datacenter: &'a Datacenter,
    args: &[&str],
    decide: F,
) -> impl Future<Output = Poll<T>> + use<'a, T, F>
where
    F: FnOnce(&Value) -> Poll<T>,
{
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    async move {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match get(datacenter, &args).await {
            Ok(seen) => decide(&seen),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    }
}
