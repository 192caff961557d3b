//! The functions of the driver's library, `libcuda.so.1`, as NVIDIA's `cuda.h` declares them.
//!
//! This is the crate's only unsafe code. What makes it sound is the same for all calls: a function was looked up under the very
//! name whose signature stands here, and the library stays loaded as long as anything that came from it; a handle was given by the
//! library and is used while what it names lives; what is written to is a live local or slice of the type and length that is said;
//! memory of the GPU is reached by kernels alone, whose bounds are their arguments.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use libloading::Library;

use crate::device::DeviceError;

const OUT_OF_MEMORY: c_int = 2;

/// Why there are no GPUs to compute with.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No library.
    #[error(
        "loading libcuda.so.1: {0}; it is there in a pod that was given a GPU, mounted by the NVIDIA container toolkit"
    )]
    Library(#[source] libloading::Error),
    /// The library lacks a function.
    #[error("libcuda.so.1 has no {0}: the driver is too old")]
    Symbol(&'static str),
    /// The driver refuses.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

macro_rules! functions {
    ($($field:ident = $symbol:literal ($($argument:ty),*);)*) => {
        /// The library and those of its functions that are used. All return 0 for success.
        pub(super) struct Driver {
            $($field: unsafe extern "C" fn($($argument),*) -> c_int,)*
            // After the functions, which are part of it.
            _library: Library,
        }
        impl Driver {
            fn load(library: Library) -> Result<Self, OpenError> {
                // SAFETY: the signatures are those of `cuda.h` for these names.
                $(let $field = unsafe {
                    *library
                        .get::<unsafe extern "C" fn($($argument),*) -> c_int>(concat!($symbol, "\0").as_bytes())
                        .map_err(|_| OpenError::Symbol($symbol))?
                };)*
                Ok(Self { $($field,)* _library: library })
            }
        }
    };
}

functions! {
    init = "cuInit" (c_uint);
    device_count = "cuDeviceGetCount" (*mut c_int);
    device_get = "cuDeviceGet" (*mut c_int, c_int);
    device_name = "cuDeviceGetName" (*mut c_char, c_int, c_int);
    device_memory = "cuDeviceTotalMem_v2" (*mut usize, c_int);
    context_retain = "cuDevicePrimaryCtxRetain" (*mut usize, c_int);
    context_release = "cuDevicePrimaryCtxRelease_v2" (c_int);
    context_set = "cuCtxSetCurrent" (usize);
    synchronize = "cuCtxSynchronize" ();
    memory_info = "cuMemGetInfo_v2" (*mut usize, *mut usize);
    allocate = "cuMemAlloc_v2" (*mut u64, usize);
    free = "cuMemFree_v2" (u64);
    to_device = "cuMemcpyHtoD_v2" (u64, *const c_void, usize);
    from_device = "cuMemcpyDtoH_v2" (*mut c_void, u64, usize);
    module_load = "cuModuleLoadData" (*mut usize, *const c_void);
    module_function = "cuModuleGetFunction" (*mut usize, usize, *const c_char);
    launch = "cuLaunchKernel" (
        usize, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, usize, *const *mut c_void, *const *mut c_void
    );
    error_name = "cuGetErrorName" (c_int, *mut *const c_char);
}

impl Driver {
    pub(super) fn open() -> Result<Self, OpenError> {
        // SAFETY: the driver's library may be loaded by any process; its initialisers are NVIDIA's.
        let library = unsafe { Library::new("libcuda.so.1") }.map_err(OpenError::Library)?;
        let driver = Self::load(library)?;
        // SAFETY: as for the whole module.
        driver.done("cuInit", "the driver", unsafe { (driver.init)(0) })?;
        Ok(driver)
    }

    pub(super) fn count(&self) -> Result<u32, DeviceError> {
        let mut count = 0;
        // SAFETY: as for the whole module.
        self.done("cuDeviceGetCount", "the driver", unsafe { (self.device_count)(&raw mut count) })?;
        Ok(u32::try_from(count).unwrap_or_default())
    }

    fn done(&self, call: &'static str, device: &str, code: c_int) -> Result<(), DeviceError> {
        if code == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        // SAFETY: as for the whole module; a name is a text that lives as long as the library.
        let why = unsafe {
            match (self.error_name)(code, &raw mut name) {
                0 if !name.is_null() => CStr::from_ptr(name).to_string_lossy().into_owned(),
                _ => "an error without name".to_owned(),
            }
        };
        Err(DeviceError::Driver { call, device: device.to_owned(), why: format!("{why} ({code})") })
    }
}

/// Memory of a GPU, given back when dropped.
pub(super) struct Memory {
    driver: Arc<Driver>,
    context: usize,
    at: u64,
    bytes: u64,
}

impl Memory {
    /// Its address, for a kernel.
    pub(super) fn argument(&self) -> u64 {
        self.at
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: as for the whole module; no kernel runs any more, for every launch is waited for.
        unsafe {
            if (self.driver.context_set)(self.context) == 0 {
                (self.driver.free)(self.at);
            }
        }
    }
}

/// A kernel.
pub(super) struct Function(usize);

/// A GPU, opened.
pub(super) struct Context {
    driver: Arc<Driver>,
    device: c_int,
    context: usize,
    name: String,
    memory: u64,
}

impl Context {
    pub(super) fn open(driver: &Arc<Driver>, ordinal: u32) -> Result<Self, DeviceError> {
        let unnamed = format!("GPU {ordinal}");
        let done = |call, code| driver.done(call, &unnamed, code);
        let (mut device, mut context, mut memory, mut text) = (0, 0, 0, [0u8; 128]);
        // SAFETY: as for the whole module; the library ends a name with a zero within the length that it is told.
        unsafe {
            done("cuDeviceGet", (driver.device_get)(&raw mut device, ordinal.cast_signed()))?;
            done("cuDeviceGetName", (driver.device_name)(text.as_mut_ptr().cast(), 128, device))?;
            done("cuDeviceTotalMem", (driver.device_memory)(&raw mut memory, device))?;
            done("cuDevicePrimaryCtxRetain", (driver.context_retain)(&raw mut context, device))?;
        }
        let product = CStr::from_bytes_until_nul(&text).map(CStr::to_string_lossy).unwrap_or_default();
        let name = format!("GPU {ordinal} ({product})");
        let opened = Self { driver: Arc::clone(driver), device, context, name, memory: memory as u64 };
        opened.enter()?;
        Ok(opened)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn memory(&self) -> u64 {
        self.memory
    }

    fn done(&self, call: &'static str, code: c_int) -> Result<(), DeviceError> {
        self.driver.done(call, &self.name, code)
    }

    /// Makes this GPU the one of the thread's calls: to be called first on every thread.
    pub(super) fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: as for the whole module.
        self.done("cuCtxSetCurrent", unsafe { (self.driver.context_set)(self.context) })
    }

    /// Compiles kernels. `ptx` ends with a zero.
    pub(super) fn load(&self, ptx: &'static str) -> Result<usize, DeviceError> {
        let mut module = 0;
        debug_assert!(ptx.ends_with('\0'));
        // SAFETY: as for the whole module. A module is never unloaded: it ends with the process.
        self.done("cuModuleLoadData", unsafe { (self.driver.module_load)(&raw mut module, ptx.as_ptr().cast()) })?;
        Ok(module)
    }

    pub(super) fn function(&self, module: usize, name: &CStr) -> Result<Function, DeviceError> {
        let mut function = 0;
        // SAFETY: as for the whole module.
        let code = unsafe { (self.driver.module_function)(&raw mut function, module, name.as_ptr()) };
        self.done("cuModuleGetFunction", code)?;
        Ok(Function(function))
    }

    pub(super) fn allocate(&self, bytes: u64) -> Result<Memory, DeviceError> {
        let (mut free, mut all, mut at) = (0, 0, 0);
        // SAFETY: as for the whole module.
        let info = unsafe { (self.driver.memory_info)(&raw mut free, &raw mut all) };
        self.done("cuMemGetInfo", info)?;
        let full = || DeviceError::Memory { needed: bytes, free: free as u64, device: self.name.clone() };
        let length = usize::try_from(bytes).map_err(|_| full())?;
        // SAFETY: as for the whole module.
        match unsafe { (self.driver.allocate)(&raw mut at, length) } {
            OUT_OF_MEMORY => return Err(full()),
            code => self.done("cuMemAlloc", code)?,
        }
        Ok(Memory { driver: Arc::clone(&self.driver), context: self.context, at, bytes })
    }

    pub(super) fn write(&self, to: &Memory, words: &[u32]) -> Result<(), DeviceError> {
        let bytes = self.fitting(to, words.len(), "cuMemcpyHtoD")?;
        // SAFETY: as for the whole module; the memory has at least these bytes.
        self.done("cuMemcpyHtoD", unsafe { (self.driver.to_device)(to.at, words.as_ptr().cast(), bytes) })
    }

    pub(super) fn read(&self, from: &Memory, words: &mut [u32]) -> Result<(), DeviceError> {
        let bytes = self.fitting(from, words.len(), "cuMemcpyDtoH")?;
        // SAFETY: as for the whole module; the memory has at least these bytes, and any bytes are words.
        self.done("cuMemcpyDtoH", unsafe { (self.driver.from_device)(words.as_mut_ptr().cast(), from.at, bytes) })
    }

    fn fitting(&self, memory: &Memory, words: usize, call: &'static str) -> Result<usize, DeviceError> {
        let bytes = words.saturating_mul(size_of::<u32>());
        if bytes as u64 <= memory.bytes {
            return Ok(bytes);
        }
        let why = format!("{bytes} bytes are more than the {} that were allocated", memory.bytes);
        Err(DeviceError::Driver { call, device: self.name.clone(), why })
    }

    /// Runs a kernel on a grid of blocks and waits for its end. Each argument is given as 64 bits, of which a kernel's 32-bit
    /// parameter takes the lower ones: this program runs on little-endian machines, the only ones with this driver.
    pub(super) fn launch(
        &self,
        kernel: &Function,
        grid: (u32, u32),
        threads: u32,
        arguments: &[u64],
    ) -> Result<(), DeviceError> {
        let mut values = arguments.to_vec();
        let pointers: Vec<*mut c_void> = values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let (Driver { launch, synchronize, .. }, none) = (&*self.driver, std::ptr::null());
        // SAFETY: as for the whole module; the arguments are as many as the kernel's parameters, and the driver copies them.
        let launched = unsafe { launch(kernel.0, grid.0, grid.1, 1, threads, 1, 1, 0, 0, pointers.as_ptr(), none) };
        self.done("cuLaunchKernel", launched)?;
        // SAFETY: as for the whole module.
        self.done("cuCtxSynchronize", unsafe { synchronize() })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: as for the whole module; what was allocated in it is dropped before it.
        unsafe { (self.driver.context_release)(self.device) };
    }
}
