//! Every call of the library, recorded, and with its return code as it is.
//!
//! This is the crate's only unsafe code. nvml-wrapper loads the library and types its symbols; its safe functions are not
//! used beyond that, for three reasons. A number that they have no name for (a brand, an architecture, a code from 23 to 30)
//! becomes the same error as a return code, so that the brand 15 reads like the code of a lost GPU. They drop the instance of
//! an event, and its unknown bits. And no field can be asked for a single link.
//!
//! What makes the calls sound is the same for all: a function pointer was looked up under the very name whose signature the
//! bindings generated from NVIDIA's header; a handle was given by the library itself; what is written to is a live, initialised
//! local of the type in that signature, of which every pattern of bits is a value.
#![allow(unsafe_code)]

mod calls;
mod lists;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr};
use std::mem::ManuallyDrop;
use std::os::raw::{c_char, c_uint};

use nvml_wrapper::Nvml;
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};

pub(in crate::survey) use lists::{Event, EventSet, List, Listed};

use super::super::failure::Failure;
use super::super::wire::{CallErrors, Failed, Raw};
use super::failed;
use super::trace::Trace;

const SUCCESS: nvmlReturn_t = 0;
/// Not supported, not there, and longer than the buffer: answers as good as a value.
const ANSWERS: [nvmlReturn_t; 3] = [3, 6, 7];
/// An error that has no number of its own.
const UNKNOWN: nvmlReturn_t = 999;

/// The library, initialised. It is never shut down: its process ends with its answer, and the kernel closes what it opened. A
/// shutdown could only add a hang, or a panic where the library lacks the function.
pub(in crate::survey) struct Library {
    nvml: ManuallyDrop<Nvml>,
    trace: Trace,
    calls: Cell<u32>,
    errors: RefCell<BTreeMap<(&'static str, nvmlReturn_t), u32>>,
}

/// A device or instance, as the library names it for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::survey) struct Handle(nvmlDevice_t);

/// A function of the library under its name; none where the library lacks it.
struct Symbol<F> {
    name: &'static str,
    function: Option<F>,
}

macro_rules! symbol {
    ($library:expr, $name:ident) => {
        Symbol { name: stringify!($name), function: $library.nvml.lib().$name.as_ref().ok().copied() }
    };
}

type Get<T> = unsafe extern "C" fn(nvmlDevice_t, *mut T) -> nvmlReturn_t;
type GetOf<T> = unsafe extern "C" fn(nvmlDevice_t, c_uint, *mut T) -> nvmlReturn_t;
type GetTwo<T> = unsafe extern "C" fn(nvmlDevice_t, *mut T, *mut T) -> nvmlReturn_t;
type GetText = unsafe extern "C" fn(nvmlDevice_t, *mut c_char, c_uint) -> nvmlReturn_t;
type System<T> = unsafe extern "C" fn(*mut T) -> nvmlReturn_t;
type SystemText = unsafe extern "C" fn(*mut c_char, c_uint) -> nvmlReturn_t;

use symbol;

impl Library {
    /// Loads and initialises it.
    pub(in crate::survey) fn open(path: &OsStr, trace: Trace) -> Result<Self, Failed> {
        const INIT: &str = "nvmlInit_v2";
        match Nvml::builder().lib_path(path).init() {
            Ok(nvml) => {
                trace.returned(INIT, SUCCESS, 0);
                let (calls, errors) = (Cell::new(0), RefCell::default());
                Ok(Self { nvml: ManuallyDrop::new(nvml), trace, calls, errors })
            }
            Err(error) => {
                let failed = failed(error);
                match (failed.failure, failed.code) {
                    (_, Some(code)) => trace.returned(INIT, code, 0),
                    (Failure::SymbolMissing, None) => trace.absent(INIT, 0),
                    _ => {}
                }
                Err(failed)
            }
        }
    }

    /// How often it was asked.
    pub(in crate::survey) fn calls(&self) -> u32 {
        self.calls.get()
    }

    /// Which functions returned errors, and how often.
    pub(in crate::survey) fn errors(&self) -> Vec<CallErrors> {
        let errors = self.errors.borrow();
        errors
            .iter()
            .map(|((symbol, code), count)| CallErrors { symbol: (*symbol).to_owned(), code: *code, count: *count })
            .collect()
    }

    fn get<T>(&self, symbol: Symbol<Get<T>>, device: Handle, blank: T) -> Raw<T> {
        self.ask(symbol, size_of::<T>(), |function| {
            let mut value = blank;
            // SAFETY: as said above.
            let code = unsafe { function(device.0, &raw mut value) };
            (code, value)
        })
    }

    fn get_of<T: Default>(&self, symbol: Symbol<GetOf<T>>, device: Handle, of: u32) -> Raw<T> {
        self.ask(symbol, size_of::<T>(), |function| {
            let mut value = T::default();
            // SAFETY: as said above.
            let code = unsafe { function(device.0, of, &raw mut value) };
            (code, value)
        })
    }

    fn get_two<T: Copy>(&self, symbol: Symbol<GetTwo<T>>, device: Handle, blank: T) -> Raw<(T, T)> {
        self.ask(symbol, size_of::<T>(), |function| {
            let (mut one, mut other) = (blank, blank);
            // SAFETY: as said above.
            let code = unsafe { function(device.0, &raw mut one, &raw mut other) };
            (code, (one, other))
        })
    }

    fn system<T>(&self, symbol: Symbol<System<T>>, blank: T) -> Raw<T> {
        self.ask(symbol, size_of::<T>(), |function| {
            let mut value = blank;
            // SAFETY: as said above.
            let code = unsafe { function(&raw mut value) };
            (code, value)
        })
    }

    fn system_text<const N: usize>(&self, symbol: Symbol<SystemText>) -> Raw<String> {
        self.text::<N, SystemText>(symbol, |function, buffer, size| {
            // SAFETY: as said above; the buffer is as long as is told.
            unsafe { function(buffer, size) }
        })
    }

    fn text<const N: usize, F>(
        &self,
        symbol: Symbol<F>,
        call: impl FnOnce(F, *mut c_char, c_uint) -> nvmlReturn_t,
    ) -> Raw<String> {
        self.ask(symbol, N, |function| {
            let mut buffer: [c_char; N] = [0; N];
            let code = call(function, buffer.as_mut_ptr(), c_uint::try_from(N).unwrap_or(0));
            (code, buffer)
        })
        .and_then(|buffer| text(&buffer))
    }

    fn ask<F, T>(&self, symbol: Symbol<F>, size: usize, call: impl FnOnce(F) -> (nvmlReturn_t, T)) -> Raw<T> {
        let Some(function) = symbol.function else {
            self.trace.absent(symbol.name, size);
            return Raw::NoSymbol;
        };
        self.calls.set(self.calls.get().saturating_add(1));
        let (code, value) = call(function);
        self.trace.returned(symbol.name, code, size);
        if code == SUCCESS {
            return Raw::Value(value);
        }
        if !ANSWERS.contains(&code) {
            *self.errors.borrow_mut().entry((symbol.name, code)).or_default() += 1;
        }
        Raw::Code(code)
    }
}

fn handle(device: nvmlDevice_t) -> Raw<Handle> {
    if device.is_null() { Raw::Code(UNKNOWN) } else { Raw::Value(Handle(device)) }
}

/// A versioned struct begins with its size, and its version in the highest byte.
fn version<T>(version: u32) -> c_uint {
    c_uint::try_from(size_of::<T>()).unwrap_or(0) | version << 24
}

fn text(buffer: &[c_char]) -> Raw<String> {
    let bytes: Vec<u8> = buffer.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
    let text = CStr::from_bytes_until_nul(&bytes).ok().and_then(|text| text.to_str().ok());
    text.map_or(Raw::NotText, |text| Raw::Value(text.to_owned()))
}
