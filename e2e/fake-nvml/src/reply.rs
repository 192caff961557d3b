//! Out parameters, checked as the driver's library checks them.

use std::os::raw::{c_char, c_uint};

use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH, nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_t,
};

/// What a call comes to: nothing more to say, or an NVML code.
pub(crate) type Reply = Result<(), nvmlReturn_t>;

/// Writes a value.
///
/// # Safety
/// `out` is null, or points to a writable `T`.
pub(crate) unsafe fn put<T>(out: *mut T, value: T) -> Reply {
    if out.is_null() || !out.is_aligned() {
        return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, aligned, and writable by the caller's promise.
    unsafe { out.write(value) };
    Ok(())
}

/// Writes a value that the scenario may not give.
///
/// # Safety
/// As [`put`].
pub(crate) unsafe fn put_if_given<T>(out: *mut T, value: Option<T>) -> Reply {
    if out.is_null() {
        return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    }
    let value = value.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
    // SAFETY: the caller's promise is passed on.
    unsafe { put(out, value) }
}

/// Writes text and its final zero, or nothing at all.
///
/// # Safety
/// `out` is null, or points to `length` writable bytes.
pub(crate) unsafe fn put_text(out: *mut c_char, length: c_uint, text: Option<&[u8]>) -> Reply {
    if out.is_null() {
        return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    }
    let text = text.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
    if usize::try_from(length).is_ok_and(|length| length <= text.len()) {
        return Err(nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
    }
    // SAFETY: `text.len() + 1 <= length` bytes are writable by the caller's promise, and cannot overlap our own memory.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), out.cast::<u8>(), text.len());
        out.add(text.len()).write(0);
    }
    Ok(())
}

/// Whether a versioned struct is of the version that we fill: its size, with the version in the highest byte.
pub(crate) fn check_version<T>(given: c_uint, version: c_uint) -> Reply {
    let expected = c_uint::try_from(size_of::<T>()).map(|size| size | version << 24);
    if expected == Ok(given) { Ok(()) } else { Err(nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH) }
}
