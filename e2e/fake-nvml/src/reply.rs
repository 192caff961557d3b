//! Out parameters, checked as the driver's library checks them.

use std::os::raw::{c_char, c_uint};

use nvml_wrapper_sys::bindings::{
    nvmlEccSramErrorStatus_t, nvmlMarginTemperature_t, nvmlMemory_v2_t,
    nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH, nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_t,
    nvmlSystemConfComputeSettings_t,
};

/// What a call comes to: nothing more to say, or an NVML code.
pub(crate) type Reply = Result<(), nvmlReturn_t>;

/// Whether something can be written through a pointer, as far as one can tell.
pub(crate) fn check_out<T>(out: *mut T) -> Reply {
    if out.is_null() || !out.is_aligned() { Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT) } else { Ok(()) }
}

/// Writes a value.
///
/// # Safety
/// `out` is null, or points to a writable `T`.
pub(crate) unsafe fn put<T>(out: *mut T, value: T) -> Reply {
    check_out(out)?;
    // SAFETY: not null, aligned, and writable by the caller's promise.
    unsafe { out.write(value) };
    Ok(())
}

/// Writes a value that the scenario may not give.
///
/// # Safety
/// As [`put`].
pub(crate) unsafe fn put_if_given<T>(out: *mut T, value: Option<T>) -> Reply {
    check_out(out)?;
    let value = value.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
    // SAFETY: the caller's promise is passed on.
    unsafe { put(out, value) }
}

/// Writes text and its final zero, or nothing at all.
///
/// # Safety
/// `out` is null, or points to `length` writable bytes.
pub(crate) unsafe fn put_text(out: *mut c_char, length: c_uint, text: Option<&[u8]>) -> Reply {
    check_out(out)?;
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

/// Fills a versioned struct, if it is of the version that we fill: its size, with the version in the highest byte.
///
/// # Safety
/// As [`put`]; a struct that is there has its version word set.
pub(crate) unsafe fn put_versioned<T: Versioned>(out: *mut T, value: Option<T>) -> Reply {
    check_out(out)?;
    let version = c_uint::try_from(size_of::<T>()).map(|size| size | T::VERSION << 24);
    // SAFETY: not null, aligned, and of that type by the caller's promise.
    let given = unsafe { *(*out).version() };
    if version != Ok(given) {
        return Err(nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    }
    let mut value = value.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
    *value.version() = given;
    // SAFETY: the caller's promise is passed on.
    unsafe { put(out, value) }
}

/// A struct that begins with a version word.
pub(crate) trait Versioned {
    /// The version that we fill.
    const VERSION: c_uint;
    /// Where the client says which it means.
    fn version(&mut self) -> &mut c_uint;
}

macro_rules! versioned {
    ($($name:ty = $version:literal),+ $(,)?) => {$(
        impl Versioned for $name {
            const VERSION: c_uint = $version;
            fn version(&mut self) -> &mut c_uint {
                &mut self.version
            }
        }
    )+};
}

versioned! {
    nvmlMemory_v2_t = 2,
    nvmlEccSramErrorStatus_t = 1,
    nvmlMarginTemperature_t = 1,
    nvmlSystemConfComputeSettings_t = 1,
}

/// The choice that a client makes by number; none of them is `NVML_ERROR_INVALID_ARGUMENT`.
pub(crate) fn choose<T: Copy>(choices: &[T], number: c_uint) -> Result<T, nvmlReturn_t> {
    let chosen = usize::try_from(number).ok().and_then(|number| choices.get(number));
    chosen.copied().ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)
}
