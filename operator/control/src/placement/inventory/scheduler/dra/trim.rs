//! What is kept of slices and claims. A driver says a dozen things of each device and a cluster has tens of thousands of
//! them; what is given out needs its name, its id and its taints.

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::GPU_DRIVER;

const ATTRIBUTES: [&str; 2] = ["uuid", "type"];

/// Leaves of a slice what tells its devices apart, and whether they may be given out.
pub fn slice(slice: &mut ResourceSlice) {
    bare(&mut slice.metadata);
    slice.metadata.owner_references = None;
    slice.spec.shared_counters = None;
    if slice.spec.driver != GPU_DRIVER {
        slice.spec.devices = None;
    }
    for device in slice.spec.devices.iter_mut().flatten() {
        if let Some(attributes) = &mut device.attributes {
            attributes.retain(|name, _| ATTRIBUTES.contains(&name.rsplit('/').next().unwrap_or(name)));
        }
        device.capacity = None;
        device.binding_conditions = None;
        device.binding_failure_conditions = None;
        device.node_selector = None;
        for counter in device.consumes_counters.iter_mut().flatten() {
            counter.counters.clear();
        }
    }
}

/// Leaves of a claim what it asks for, what it got and who uses it.
pub fn claim(claim: &mut ResourceClaim) {
    bare(&mut claim.metadata);
    if let Some(devices) = &mut claim.spec.devices {
        devices.config = None;
        devices.constraints = None;
        for request in devices.requests.iter_mut().flatten() {
            if let Some(exactly) = &mut request.exactly {
                exactly.selectors = None;
                exactly.tolerations = None;
                exactly.capacity = None;
            }
            for one in request.first_available.iter_mut().flatten() {
                one.selectors = None;
                one.tolerations = None;
                one.capacity = None;
            }
        }
    }
    let Some(status) = &mut claim.status else { return };
    status.devices = None;
    let Some(devices) = status.allocation.as_mut().and_then(|allocation| allocation.devices.as_mut()) else { return };
    for result in devices.results.iter_mut().flatten() {
        result.tolerations = None;
        result.binding_conditions = None;
        result.binding_failure_conditions = None;
    }
    for config in devices.config.iter_mut().flatten() {
        let Some(opaque) = &mut config.opaque else { continue };
        // How it is shared, also where that is said in a form that is not understood.
        let sharing = opaque.parameters.0.get("sharing").map(|sharing| {
            let strategy = sharing.get("strategy").and_then(Value::as_str);
            json!({"sharing": {"strategy": strategy}})
        });
        opaque.parameters.0 = sharing.unwrap_or(Value::Null);
    }
}

fn bare(metadata: &mut ObjectMeta) {
    metadata.labels = None;
    metadata.annotations = None;
    metadata.managed_fields = None;
}
