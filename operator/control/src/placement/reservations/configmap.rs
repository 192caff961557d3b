//! The records as ConfigMaps of the release namespace.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use koinon_api::{labels, names};
use koinon_core::ids::NodeName;
use koinon_core::placement::reservations::NodeReservations;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::{Read, RecordStore, StoreError, Version};
use crate::placement::reader;
use crate::placement::writer::Writer;

/// Only these ConfigMaps are read, so that the operator needs no right to look into others.
const PART: &str = "reservations";

/// The ConfigMaps of one release namespace.
#[derive(Clone, Debug)]
pub struct ConfigMaps {
    api: Api<ConfigMap>,
    namespace: String,
    writer: Writer,
}

impl ConfigMaps {
    /// Those of `namespace`.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, writer: Writer) -> Self {
        Self { api: Api::namespaced(client, namespace), namespace: namespace.to_owned(), writer }
    }

    fn object(&self, record: &NodeReservations, version: Option<&Version>) -> Result<ConfigMap, StoreError> {
        let name = names::reservations(record.node().as_str());
        let text = serde_json::to_string(record)
            .map_err(|error| StoreError::Unreadable { name: name.clone(), why: error.to_string() })?;
        Ok(ConfigMap {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(self.namespace.clone()),
                labels: Some(BTreeMap::from([
                    (labels::PART.to_owned(), PART.to_owned()),
                    ("app.kubernetes.io/managed-by".to_owned(), "koinon".to_owned()),
                ])),
                resource_version: version.map(|version| version.0.clone()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(labels::RESERVATIONS_ENTRY.to_owned(), text)])),
            ..ConfigMap::default()
        })
    }
}

/// The label selector of the records.
#[must_use]
pub fn selector() -> String {
    format!("{}={PART}", labels::PART)
}

/// Reads a record.
///
/// # Errors
/// When it is not one, or another node's.
pub fn read(map: &ConfigMap) -> Result<Read, StoreError> {
    let unreadable = |why: String| StoreError::Unreadable { name: map.name_any(), why };
    let entry = labels::RESERVATIONS_ENTRY;
    let text =
        map.data.as_ref().and_then(|data| data.get(entry)).ok_or_else(|| unreadable(format!("it has no {entry}")))?;
    let record: NodeReservations = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    if names::reservations(record.node().as_str()) != map.name_any() {
        return Err(unreadable(format!("it is the record of {}", record.node())));
    }
    Ok(Read { record, version: map.resource_version().map(Version) })
}

impl RecordStore for ConfigMaps {
    async fn list(&self) -> Result<BTreeMap<NodeName, Read>, StoreError> {
        let params = ListParams::default().labels(&selector());
        // Without a resource version the API server answers from a quorum, not from its watch cache.
        let maps = reader::read("the reservations", self.api.list(&params)).await?;
        maps.items.iter().map(|map| read(map).map(|read| (read.record.node().clone(), read))).collect()
    }

    async fn write(&self, record: &NodeReservations, expected: Option<&Version>) -> Result<(), StoreError> {
        let object = self.object(record, expected)?;
        let written = match expected {
            Some(_) => self.writer.replace(&self.api, &object).await,
            None => self.writer.create(&self.api, &object).await,
        };
        match written {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() || error.is_not_found() => {
                Err(StoreError::Conflict(record.node().clone()))
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &str, text: Option<&str>) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            data: text.map(|text| BTreeMap::from([(labels::RESERVATIONS_ENTRY.to_owned(), text.to_owned())])),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_is_never_taken_for_an_empty_one() {
        for broken in [None, Some("{"), Some("{}"), Some(r#"{"node":"bilbao-1","held":[{}]}"#)] {
            let error = read(&map("koinon-reservations-bilbao-1", broken)).unwrap_err();
            assert!(matches!(error, StoreError::Unreadable { .. }), "{error}");
        }
    }

    #[test]
    fn a_record_under_another_node_s_name_is_refused() {
        let error = read(&map("koinon-reservations-bilbao-1", Some(r#"{"node":"bilbao-2"}"#))).unwrap_err();
        assert!(error.to_string().contains("it is the record of bilbao-2"), "{error}");
    }
}
