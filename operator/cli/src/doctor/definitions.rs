//! Whether an installed definition has everything that this version's has; what else it has is its own affair.

use serde_json::Value;

/// How an installed definition falls short of the built-in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gap {
    /// It has nothing there: what Koinon writes into it is dropped by the API server.
    Lacks(String),
    /// It has something else there.
    Differs(String),
}

/// The first gap of `found`, both being a definition's `spec` as JSON.
pub fn gap(wanted: &Value, found: &Value) -> Option<Gap> {
    compare("", wanted, Some(found))
}

fn compare(path: &str, wanted: &Value, found: Option<&Value>) -> Option<Gap> {
    let Some(found) = found else {
        // The API server drops what says nothing.
        return (!says_nothing(wanted)).then(|| Gap::Lacks(path.to_owned()));
    };
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            // What a text says of a field changes nothing about it.
            let fields = wanted.iter().filter(|(name, value)| !(*name == "description" && value.is_string()));
            fields.into_iter().find_map(|(name, value)| compare(&format!("{path}.{name}"), value, found.get(name)))
        }
        // Whatever else were required would be refused from this version, which does not know of it.
        (Value::Array(wanted), Value::Array(found)) if path.ends_with(".required") => {
            let same = wanted.len() == found.len() && wanted.iter().all(|field| found.contains(field));
            (!same).then(|| Gap::Differs(path.to_owned()))
        }
        (Value::Array(wanted), Value::Array(found)) => wanted.iter().find_map(|item| {
            if !item.is_object() {
                return (!found.contains(item)).then(|| Gap::Lacks(element(path, item)));
            }
            let mut nearest = None;
            for candidate in found.iter().filter(|candidate| name_of(candidate) == name_of(item)) {
                nearest = compare(&element(path, item), item, Some(candidate));
                nearest.as_ref()?;
            }
            nearest.or_else(|| Some(Gap::Lacks(element(path, item))))
        }),
        _ => (wanted != found).then(|| Gap::Differs(path.to_owned())),
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn name_of(item: &Value) -> Option<&str> {
    item.get("name").and_then(Value::as_str)
}

fn element(path: &str, item: &Value) -> String {
    match (name_of(item), item) {
        (Some(name), _) => format!("{path}[{name}]"),
        (None, Value::String(text)) => format!("{path}[{text}]"),
        (None, _) => format!("{path}[]"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn built_in() -> Value {
        let all = koinon_api::crd::all();
        let job = all.iter().find(|crd| crd.spec.names.kind == "InferenceJob").unwrap();
        serde_json::to_value(&job.spec).unwrap()
    }

    fn schema(spec: &mut Value) -> &mut Value {
        &mut spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    }

    #[test]
    fn every_built_in_definition_has_no_gap_to_itself() {
        for crd in koinon_api::crd::all() {
            let spec = serde_json::to_value(&crd.spec).unwrap();
            assert_eq!(gap(&spec, &spec), None, "{}", crd.spec.names.kind);
        }
    }

    #[test]
    fn what_the_api_server_adds_is_no_gap() {
        let mut found = built_in();
        found["conversion"] = json!({"strategy": "None"});
        found["preserveUnknownFields"] = json!(false);
        found["names"]["listKind"] = json!("InferenceJobList");
        found["versions"][0]["deprecated"] = json!(false);
        assert_eq!(gap(&built_in(), &found), None);
        // Nor is what it leaves out because it says nothing.
        let mut wanted = built_in();
        wanted["preserveUnknownFields"] = json!(false);
        wanted["names"]["categories"] = json!([]);
        assert_eq!(
            gap(&wanted, &{
                let mut f = built_in();
                f["names"].as_object_mut().unwrap().remove("categories");
                f
            }),
            None
        );
    }

    #[test]
    fn what_a_newer_chart_adds_is_no_gap() {
        let mut found = built_in();
        schema(&mut found)["properties"]["newest"] = json!({"type": "string", "default": "x"});
        schema(&mut found)["description"] = json!("said in other words");
        let rules = &mut schema(&mut found)["x-kubernetes-validations"];
        let mut more = rules.as_array().cloned().unwrap_or_default();
        more.insert(0, json!({"rule": "true", "message": "m"}));
        *rules = json!(more);
        let next = json!({"name": "v1beta1", "served": true, "storage": false});
        found["versions"].as_array_mut().unwrap().insert(0, next);
        assert_eq!(gap(&built_in(), &found), None);
    }

    #[test]
    fn what_an_older_chart_lacks_is_named() {
        let mut found = built_in();
        schema(&mut found)["properties"].as_object_mut().unwrap().remove("gpu");
        let Some(Gap::Lacks(path)) = gap(&built_in(), &found) else { panic!("a missing field is a gap") };
        assert_eq!(path, ".versions[v1alpha1].schema.openAPIV3Schema.properties.spec.properties.gpu");
    }

    #[test]
    fn another_limit_and_another_required_field_are_named() {
        let mut found = built_in();
        schema(&mut found)["properties"]["servedName"]["maxLength"] = json!(7);
        let Some(Gap::Differs(path)) = gap(&built_in(), &found) else { panic!("another limit is a gap") };
        assert!(path.ends_with("servedName.maxLength"), "{path}");
        let mut found = built_in();
        found["names"]["shortNames"] = json!(["kother"]);
        assert_eq!(gap(&built_in(), &found), Some(Gap::Lacks(".names.shortNames[kjob]".to_owned())));
        let mut found = built_in();
        schema(&mut found)["required"].as_array_mut().unwrap().push(json!("newest"));
        let Some(Gap::Differs(path)) = gap(&built_in(), &found) else { panic!("a required field is a gap") };
        assert!(path.ends_with(".required"), "{path}");
    }
}
