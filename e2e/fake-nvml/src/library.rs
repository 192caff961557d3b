//! The state behind the symbols: how often the library was initialised, which handles it gave, which faults are due.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_MEMORY, nvmlReturn_enum_NVML_ERROR_UNINITIALIZED, nvmlReturn_enum_NVML_ERROR_UNKNOWN,
    nvmlReturn_enum_NVML_SUCCESS, nvmlReturn_t,
};

use crate::reply::Reply;
use crate::scenario::{Behaviour, Device, DeviceState, Scenario};
use crate::trace;

/// Some clients read through a handle, so each is real memory.
type Slot = [u64; 8];
/// One for every device that was ever asked for, by identity: a device that moves to another index keeps its handle.
static SLOTS: [Slot; 1024] = [[0xfa4e_0000; 8]; 1024];

static LIBRARY: Mutex<Library> =
    Mutex::new(Library { initialisations: 0, stamp: None, scenario: None, handles: Vec::new(), calls: Vec::new() });

struct Library {
    initialisations: u32,
    stamp: Option<Stamp>,
    /// None where the file as it stands cannot be used.
    scenario: Option<Arc<Scenario>>,
    /// In the order of [`SLOTS`].
    handles: Vec<Identity>,
    /// For each fault, the calls that fitted it.
    calls: Vec<u64>,
}

/// Two devices with one UUID are told apart by their order.
#[derive(Clone, PartialEq, Eq)]
struct Identity {
    uuid: String,
    nth: usize,
}

/// Tells one state of the file from the next; a replaced file has another inode even within one tick of the clock.
#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

/// An exported symbol, and the ways in which one may be called.
#[derive(Clone, Copy)]
pub(crate) struct Symbol(pub(crate) &'static str);

/// Which device a call is about.
#[derive(Clone, Copy)]
enum Subject {
    Library,
    Index(u32),
    Handle(nvmlDevice_t),
}

impl Symbol {
    /// A call that counts initialisations, and may come before the first.
    pub(crate) fn initialise(self) -> nvmlReturn_t {
        self.run(Subject::Library, false, |library, _, _| {
            library.initialisations = library.initialisations.saturating_add(1);
            Ok(())
        })
    }

    /// The counterpart of [`Symbol::initialise`].
    pub(crate) fn shut_down(self) -> nvmlReturn_t {
        self.run(Subject::Library, true, |library, _, _| {
            library.initialisations = library.initialisations.saturating_sub(1);
            Ok(())
        })
    }

    /// A call about the node as a whole.
    pub(crate) fn on_system(self, answer: impl FnOnce(&Scenario) -> Reply) -> nvmlReturn_t {
        self.run(Subject::Library, true, |_, scenario, _| answer(scenario))
    }

    /// A call about the device of a handle.
    pub(crate) fn on_device(self, handle: nvmlDevice_t, answer: impl FnOnce(&Device) -> Reply) -> nvmlReturn_t {
        self.run(Subject::Handle(handle), true, |_, scenario, index| answer(device_at(scenario, index)?))
    }

    /// A call that makes an index into a handle.
    pub(crate) fn handle_of_index(self, index: u32, answer: impl FnOnce(nvmlDevice_t) -> Reply) -> nvmlReturn_t {
        self.run(Subject::Index(index), true, |library, scenario, index| {
            let index = index.ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)?;
            answer(library.handle(scenario, index)?)
        })
    }

    fn run(
        self,
        subject: Subject,
        after_init: bool,
        answer: impl FnOnce(&mut Library, &Scenario, Option<usize>) -> Reply,
    ) -> nvmlReturn_t {
        let mut device = None;
        let code = self.attempt(subject, after_init, &mut device, answer).err().unwrap_or(nvmlReturn_enum_NVML_SUCCESS);
        trace::record(self.0, device, &code.to_string());
        code
    }

    fn attempt(
        self,
        subject: Subject,
        after_init: bool,
        device: &mut Option<usize>,
        answer: impl FnOnce(&mut Library, &Scenario, Option<usize>) -> Reply,
    ) -> Reply {
        let due = {
            let mut library = lock();
            let scenario = library.current()?;
            if after_init && library.initialisations == 0 {
                return Err(nvmlReturn_enum_NVML_ERROR_UNINITIALIZED);
            }
            *device = library.index_of(&scenario, subject)?;
            library.fault_due(&scenario, self, *device)
        };
        // Not under the lock: one thread that hangs in the driver does not stop the others.
        match due {
            None => {}
            Some(Behaviour::Return(code)) => return Err(code),
            Some(Behaviour::DelayMilliseconds(milliseconds)) => {
                std::thread::sleep(Duration::from_millis(milliseconds));
            }
            Some(Behaviour::Hang) => {
                trace::record(self.0, *device, "hang");
                loop {
                    std::thread::sleep(Duration::from_secs(3600));
                }
            }
            Some(Behaviour::Crash) => {
                trace::record(self.0, *device, "crash");
                // SAFETY: deliberately none. Page zero is never mapped, so this is the fault that a broken driver has; not
                // address zero itself, which debug builds of the standard library catch.
                unsafe { std::ptr::without_provenance_mut::<u64>(8).write_volatile(0) };
            }
        }
        let mut library = lock();
        let scenario = library.current()?;
        *device = library.index_of(&scenario, subject)?;
        if let Some(index) = *device {
            refuse_lost(device_at(&scenario, Some(index))?)?;
        }
        answer(&mut library, &scenario, *device)
    }
}

fn lock() -> std::sync::MutexGuard<'static, Library> {
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn device_at(scenario: &Scenario, index: Option<usize>) -> Result<&Device, nvmlReturn_t> {
    index.and_then(|index| scenario.devices.get(index)).ok_or(nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST)
}

fn refuse_lost(device: &Device) -> Reply {
    match device.state {
        DeviceState::Healthy => Ok(()),
        DeviceState::Lost => Err(nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST),
    }
}

impl Library {
    /// The scenario as the file holds it now.
    fn current(&mut self) -> Result<Arc<Scenario>, nvmlReturn_t> {
        let stamp = Stamp::now();
        if stamp.is_none() || stamp != self.stamp {
            let path = std::env::var_os("FAKE_NVML_SCENARIO").map(PathBuf::from).unwrap_or_default();
            self.scenario = match Scenario::load(&path) {
                Ok(scenario) => Some(Arc::new(scenario)),
                Err(error) => {
                    eprintln!("fake-nvml: {error}");
                    None
                }
            };
            self.calls = vec![0; self.scenario.as_ref().map_or(0, |scenario| scenario.faults.len())];
            self.stamp = stamp;
        }
        self.scenario.clone().ok_or(nvmlReturn_enum_NVML_ERROR_UNKNOWN)
    }

    fn index_of(&self, scenario: &Scenario, subject: Subject) -> Result<Option<usize>, nvmlReturn_t> {
        match subject {
            Subject::Library => Ok(None),
            Subject::Index(index) => usize::try_from(index)
                .ok()
                .filter(|index| *index < scenario.devices.len())
                .map(Some)
                .ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT),
            Subject::Handle(handle) => {
                let slot = SLOTS.iter().position(|slot| std::ptr::addr_eq(slot, handle));
                let identity = slot.and_then(|slot| self.handles.get(slot));
                let identity = identity.ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)?;
                // What was taken out of the machine is lost to whoever still holds its handle.
                scenario.position(identity).map(Some).ok_or(nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST)
            }
        }
    }

    fn handle(&mut self, scenario: &Scenario, index: usize) -> Result<nvmlDevice_t, nvmlReturn_t> {
        let identity = scenario.identity(index).ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)?;
        let slot = self.handles.iter().position(|known| *known == identity).unwrap_or_else(|| {
            self.handles.push(identity);
            self.handles.len() - 1
        });
        let slot = SLOTS.get(slot).ok_or(nvmlReturn_enum_NVML_ERROR_MEMORY)?;
        Ok(std::ptr::from_ref(slot).cast_mut().cast())
    }

    fn fault_due(&mut self, scenario: &Scenario, symbol: Symbol, device: Option<usize>) -> Option<Behaviour> {
        let device = device.and_then(|index| u32::try_from(index).ok());
        scenario.faults.iter().zip(&mut self.calls).find_map(|(fault, calls)| {
            let fits = fault.symbol == symbol.0 && (fault.device.is_none() || fault.device == device);
            if !fits {
                return None;
            }
            *calls += 1;
            (*calls > fault.after_calls).then_some(fault.behaviour)
        })
    }
}

impl Scenario {
    fn identity(&self, index: usize) -> Option<Identity> {
        let uuid = &self.devices.get(index)?.uuid;
        let nth = self.devices.iter().take(index).filter(|device| device.uuid == *uuid).count();
        Some(Identity { uuid: uuid.clone(), nth })
    }

    fn position(&self, identity: &Identity) -> Option<usize> {
        let same = self.devices.iter().enumerate().filter(|(_, device)| device.uuid == identity.uuid);
        same.map(|(index, _)| index).nth(identity.nth)
    }
}

impl Stamp {
    fn now() -> Option<Self> {
        let path = PathBuf::from(std::env::var_os("FAKE_NVML_SCENARIO")?);
        let metadata = std::fs::metadata(&path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            size: metadata.size(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
            path,
        })
    }
}
