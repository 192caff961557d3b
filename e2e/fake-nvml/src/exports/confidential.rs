//! Confidential computing, and a device's own evidence of what it is.

use std::os::raw::{c_uchar, c_uint};

use nvml_wrapper_sys::bindings::{
    nvmlConfComputeGpuAttestationReport_t, nvmlConfComputeGpuCertificate_t, nvmlConfComputeSystemCaps_t,
    nvmlConfComputeSystemState_t, nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_t,
    nvmlSystemConfComputeSettings_t,
};

use super::exports;
use crate::reply::{check_out, put_if_given, put_versioned};
use crate::scenario::Blob;

exports! {
    /// The node's settings.
    fn nvmlSystemGetConfComputeSettings(settings: *mut nvmlSystemConfComputeSettings_t) -> nvmlReturn_t {
        SYMBOL.on_system(|scenario| {
            let given = scenario.confidential_compute.map(|given| nvmlSystemConfComputeSettings_t {
                version: 0,
                environment: given.environment,
                ccFeature: given.enabled.into(),
                devToolsMode: given.dev_tools.into(),
                multiGpuMode: given.multi_gpu,
            });
            unsafe { put_versioned(settings, given) }
        })
    }

    /// The same in an older struct.
    fn nvmlSystemGetConfComputeState(state: *mut nvmlConfComputeSystemState_t) -> nvmlReturn_t {
        SYMBOL.on_system(|scenario| {
            let given = scenario.confidential_compute.map(|given| nvmlConfComputeSystemState_t {
                environment: given.environment,
                ccFeature: given.enabled.into(),
                devToolsMode: given.dev_tools.into(),
            });
            unsafe { put_if_given(state, given) }
        })
    }

    /// What processors and devices can do. A node with a trusted environment of any kind has both.
    fn nvmlSystemGetConfComputeCapabilities(capabilities: *mut nvmlConfComputeSystemCaps_t) -> nvmlReturn_t {
        SYMBOL.on_system(|scenario| {
            let given = scenario.confidential_compute.map(|given| {
                let capable = (given.environment != 0).into();
                nvmlConfComputeSystemCaps_t { cpuCaps: capable, gpusCaps: capable }
            });
            unsafe { put_if_given(capabilities, given) }
        })
    }

    /// Whether the devices take work.
    fn nvmlSystemGetConfComputeGpusReadyState(isAcceptingWork: *mut c_uint) -> nvmlReturn_t {
        SYMBOL.on_system(|scenario| {
            let ready = scenario.confidential_compute.and_then(|given| given.gpus_ready);
            unsafe { put_if_given(isAcceptingWork, ready.map(c_uint::from)) }
        })
    }

    /// The client's nonce stays as it is. The sizes are what the scenario claims, even beyond the buffers.
    fn nvmlDeviceGetConfComputeGpuAttestationReport(
        device: nvmlDevice_t,
        gpuAtstReport: *mut nvmlConfComputeGpuAttestationReport_t,
    ) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            check_out(gpuAtstReport)?;
            let evidence = &found.confidential;
            let report = evidence.attestation_report.as_ref().ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
            let controller = evidence.cec_attestation_report.as_ref();
            // SAFETY: not null and aligned, and a struct of that type by the client's promise.
            let out = unsafe { &mut *gpuAtstReport };
            out.isCecAttestationReportPresent = controller.is_some().into();
            out.attestationReportSize = fill(&mut out.attestationReport, Some(report));
            out.cecAttestationReportSize = fill(&mut out.cecAttestationReport, controller);
            Ok(())
        })
    }

    /// The sizes are what the scenario claims, even beyond the buffers.
    fn nvmlDeviceGetConfComputeGpuCertificate(
        device: nvmlDevice_t,
        gpuCert: *mut nvmlConfComputeGpuCertificate_t,
    ) -> nvmlReturn_t {
        SYMBOL.on_device(device, |found| {
            check_out(gpuCert)?;
            let chain = found.confidential.certificate_chain.as_ref();
            let chain = chain.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
            // SAFETY: not null and aligned, and a struct of that type by the client's promise.
            let out = unsafe { &mut *gpuCert };
            out.certChainSize = fill(&mut out.certChain, Some(chain));
            let attestation = found.confidential.attestation_certificate_chain.as_ref();
            out.attestationCertChainSize = fill(&mut out.attestationCertChain, attestation);
            Ok(())
        })
    }
}

/// Copies what fits, and says the size that the scenario claims.
fn fill(buffer: &mut [c_uchar], blob: Option<&Blob>) -> c_uint {
    let bytes = blob.and_then(|blob| blob.bytes.bytes()).unwrap_or_default();
    buffer.fill(0);
    for (place, byte) in buffer.iter_mut().zip(bytes) {
        *place = byte;
    }
    blob.map_or(0, Blob::size)
}
