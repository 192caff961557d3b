//! The claim on GPUs of a pool whose devices are given out by name.
//!
//! It asks for exactly as many whole devices as are reserved, of the one class that the owner named for the pool and of the
//! product that the reservation is for. It carries no configuration: a claim's parameters go to the driver as they are, and
//! could share a device, or loosen it.

use k8s_openapi::api::core::v1::{PodResourceClaim, ResourceClaim};
use k8s_openapi::api::resource::v1::{
    CELDeviceSelector, DeviceClaim, DeviceRequest, DeviceSelector, ExactDeviceRequest, ResourceClaimSpec,
};
use koinon_api::Placement;
use koinon_api::gpu_pool::GpuAccess;

use super::{HostSettings, RenderError, ValidatedPlacement};
use crate::placement::inventory::node::Product;
use crate::placement::inventory::scheduler::dra::GPU_DRIVER;

/// What the claim is called in the pod, and the request within the claim.
pub const NAME: &str = "gpus";

/// The claim that is granted; none where GPUs are asked for by number, or none are.
///
/// # Errors
/// When the product cannot be named in an expression.
pub fn granted(
    placement: &ValidatedPlacement,
    host: &HostSettings,
    product: Option<&Product>,
) -> Result<Option<ResourceClaimSpec>, RenderError> {
    let (GpuAccess::DeviceClass(class), true) = (host.pod.gpus(), placement.gpu.count > 0) else { return Ok(None) };
    let expression = selector(placement, product)?;
    let exactly = ExactDeviceRequest {
        device_class_name: class.to_owned(),
        allocation_mode: Some("ExactCount".to_owned()),
        count: Some(i64::from(placement.gpu.count)),
        selectors: Some(vec![DeviceSelector { cel: Some(CELDeviceSelector { expression }) }]),
        ..ExactDeviceRequest::default()
    };
    let request = DeviceRequest { name: NAME.to_owned(), exactly: Some(exactly), first_available: None };
    let devices = DeviceClaim { requests: Some(vec![request]), ..DeviceClaim::default() };
    Ok(Some(ResourceClaimSpec { devices: Some(devices) }))
}

/// Whole devices of the product that the survey found. The name comes from a library on somebody's node, so only plain
/// names stand in an expression.
fn selector(placement: &ValidatedPlacement, product: Option<&Product>) -> Result<String, RenderError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" ._()/-".contains(&byte);
    let name = product.map(|product| product.name.as_str()).unwrap_or_default();
    let Some(product) = product.filter(|_| !name.is_empty() && name.bytes().all(plain)) else {
        return Err(RenderError::Product { class: placement.gpu.class.to_string(), product: name.to_owned() });
    };
    Ok(format!(
        "device.driver == '{GPU_DRIVER}' && device.attributes['{GPU_DRIVER}'].type == 'gpu' \
         && device.attributes['{GPU_DRIVER}'].productName == '{name}' \
         && device.capacity['{GPU_DRIVER}'].memory.compareTo(quantity('{}')) >= 0",
        product.memory.0
    ))
}

/// The claim as a Placement keeps it.
///
/// # Errors
/// When it cannot be written.
pub fn text(claim: &ResourceClaimSpec) -> Result<String, RenderError> {
    serde_json::to_string(claim).map_err(|error| RenderError::Json(error.to_string()))
}

/// The claim as it was granted.
#[must_use]
pub fn of(placement: &Placement) -> Option<ResourceClaimSpec> {
    serde_json::from_str(placement.spec.claim.as_ref()?).ok()
}

/// The class whose devices a claim asks for.
#[must_use]
pub fn class(claim: &ResourceClaimSpec) -> Option<&str> {
    let request = claim.devices.as_ref()?.requests.as_ref()?.first()?;
    Some(request.exactly.as_ref()?.device_class_name.as_str())
}

/// The claims of the pod: one, made from the template that bears the Placement's name.
pub(super) fn pod_claims(placement: &ValidatedPlacement, host: &HostSettings) -> Option<Vec<PodResourceClaim>> {
    let by_claim = matches!(host.pod.gpus(), GpuAccess::DeviceClass(_)) && placement.gpu.count > 0;
    by_claim.then(|| {
        vec![PodResourceClaim {
            name: NAME.to_owned(),
            resource_claim_name: None,
            resource_claim_template_name: Some(placement.name()),
        }]
    })
}

/// What the engine's container takes of it: everything.
pub(super) fn of_container() -> ResourceClaim {
    ResourceClaim { name: NAME.to_owned(), request: None }
}
