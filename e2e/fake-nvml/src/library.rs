//! The state behind the symbols: how often the library was initialised, which handles it gave, which faults are due.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_enum_NVML_ERROR_UNINITIALIZED,
    nvmlReturn_enum_NVML_ERROR_UNKNOWN, nvmlReturn_enum_NVML_SUCCESS, nvmlReturn_t,
};

use crate::delivery::Delivery;
use crate::handles::{Handles, Subject, Target};
use crate::reply::Reply;
use crate::scenario::{Behaviour, Device, DeviceState, MigInstance, Scenario, names_every_symbol};
use crate::trace;

static LIBRARY: Mutex<Option<Library>> = Mutex::new(None);

/// All that one client process shares.
pub(crate) struct Library {
    initialisations: u32,
    /// The scenario's count of driver loads when a client last initialised the library.
    driver_loads: u32,
    stamp: Option<Stamp>,
    /// None where the file as it stands cannot be used.
    scenario: Option<Arc<Scenario>>,
    pub(crate) handles: Handles,
    pub(crate) delivery: Delivery,
    /// For each fault, the calls that fitted it.
    fault_calls: Vec<u64>,
    /// How often each symbol was called about each device, since the file last changed.
    calls: HashMap<(&'static str, Option<Target>), u64>,
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

/// What an answer may draw on.
pub(crate) struct Call<'a> {
    pub(crate) library: &'a mut Library,
    pub(crate) scenario: &'a Scenario,
    pub(crate) target: Option<Target>,
    /// How often the same was asked before.
    pub(crate) earlier: u64,
}

impl Symbol {
    /// A call that counts initialisations, and may come before the first.
    pub(crate) fn initialise(self) -> nvmlReturn_t {
        self.run(Subject::Library, false, |call| {
            let Call { library, scenario, .. } = call;
            if library.driver_loads != scenario.driver_loads {
                library.forget_clients();
            }
            library.driver_loads = scenario.driver_loads;
            library.initialisations = library.initialisations.saturating_add(1);
            Ok(())
        })
    }

    /// The counterpart of [`Symbol::initialise`].
    pub(crate) fn shut_down(self) -> nvmlReturn_t {
        self.run(Subject::Library, true, |call| {
            call.library.initialisations = call.library.initialisations.saturating_sub(1);
            if call.library.initialisations == 0 {
                call.library.forget_clients();
            }
            Ok(())
        })
    }

    /// A call about the node as a whole.
    pub(crate) fn on_system(self, answer: impl FnOnce(&Scenario) -> Reply) -> nvmlReturn_t {
        self.on_library(|call| answer(call.scenario))
    }

    /// The same, for answers that depend on the state of the library.
    pub(crate) fn on_library(self, answer: impl FnOnce(Call<'_>) -> Reply) -> nvmlReturn_t {
        self.run(Subject::Library, true, answer)
    }

    /// A call about a whole device, which instances do not support.
    pub(crate) fn on_device(self, handle: nvmlDevice_t, answer: impl FnOnce(&Device) -> Reply) -> nvmlReturn_t {
        self.on_part(handle, |device, instance| match instance {
            None => answer(device),
            Some(_) => Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED),
        })
    }

    /// A call about a device or one of its instances.
    pub(crate) fn on_part(
        self,
        handle: nvmlDevice_t,
        answer: impl FnOnce(&Device, Option<&MigInstance>) -> Reply,
    ) -> nvmlReturn_t {
        self.on(Subject::Handle(handle), |call, target| {
            answer(call.scenario.device(target)?, call.scenario.instance(target))
        })
    }

    /// A call about a device however the client names it, for answers that depend on the state of the library.
    pub(crate) fn on(self, subject: Subject<'_>, answer: impl FnOnce(Call<'_>, Target) -> Reply) -> nvmlReturn_t {
        self.run(subject, true, |call| {
            let target = call.target.ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)?;
            answer(call, target)
        })
    }

    /// A call that makes the name of a device into a handle.
    pub(crate) fn find(self, subject: Subject<'_>, answer: impl FnOnce(nvmlDevice_t) -> Reply) -> nvmlReturn_t {
        self.on(subject, |call, target| answer(call.library.handles.handle(call.scenario, target)?))
    }

    /// A call that may wait: it asks again, not holding the library, until there is an answer or the time is over.
    pub(crate) fn wait(
        self,
        time: Duration,
        over: nvmlReturn_t,
        mut answer: impl FnMut(Call<'_>) -> Result<bool, nvmlReturn_t>,
    ) -> nvmlReturn_t {
        // Often enough that an event which a test adds is heard at once, and no load to speak of.
        const BETWEEN: Duration = Duration::from_millis(10);
        let mut target = None;
        let outcome = self.prepare(Subject::Library, true, &mut target).and_then(|()| {
            let started = Instant::now();
            loop {
                let mut done = false;
                self.answer(Subject::Library, true, &mut target, |call| answer(call).map(|found| done = found))?;
                if done {
                    return Ok(());
                }
                let left = time.saturating_sub(started.elapsed());
                if left.is_zero() {
                    return Err(over);
                }
                std::thread::sleep(left.min(BETWEEN));
            }
        });
        self.conclude(target, outcome)
    }

    fn run(self, subject: Subject<'_>, after_init: bool, answer: impl FnOnce(Call<'_>) -> Reply) -> nvmlReturn_t {
        let mut target = None;
        let outcome = self
            .prepare(subject, after_init, &mut target)
            .and_then(|()| self.answer(subject, after_init, &mut target, answer));
        self.conclude(target, outcome)
    }

    fn conclude(self, target: Option<Target>, outcome: Reply) -> nvmlReturn_t {
        let code = outcome.err().unwrap_or(nvmlReturn_enum_NVML_SUCCESS);
        trace::record(self.0, target, &code.to_string());
        code
    }

    /// Whether the call may be made at all, and what goes wrong with it.
    fn prepare(self, subject: Subject<'_>, after_init: bool, target: &mut Option<Target>) -> Reply {
        let due = with_library(|library| -> Result<Option<Behaviour>, nvmlReturn_t> {
            let scenario = library.usable(after_init)?;
            *target = library.handles.resolve(&scenario, subject)?;
            Ok(library.fault_due(&scenario, self, *target))
        })?;
        // Not under the lock: one thread that hangs in the driver does not stop the others.
        match due {
            None => Ok(()),
            Some(Behaviour::Return(code)) => Err(code),
            Some(Behaviour::DelayMilliseconds(milliseconds)) => {
                std::thread::sleep(Duration::from_millis(milliseconds));
                Ok(())
            }
            Some(Behaviour::Hang) => {
                trace::record(self.0, *target, "hang");
                loop {
                    std::thread::sleep(Duration::from_secs(3600));
                }
            }
            Some(Behaviour::Crash) => {
                trace::record(self.0, *target, "crash");
                // SAFETY: deliberately none. Page zero is never mapped, so this is the fault that a broken driver has; not
                // address zero itself, which debug builds of the standard library catch.
                unsafe { std::ptr::without_provenance_mut::<u64>(8).write_volatile(0) };
                Ok(())
            }
        }
    }

    fn answer(
        self,
        subject: Subject<'_>,
        after_init: bool,
        target: &mut Option<Target>,
        answer: impl FnOnce(Call<'_>) -> Reply,
    ) -> Reply {
        with_library(|library| {
            let scenario = library.usable(after_init)?;
            *target = library.handles.resolve(&scenario, subject)?;
            if let Some(target) = *target {
                refuse_lost(scenario.device(target)?)?;
            }
            let calls = library.calls.entry((self.0, *target)).or_default();
            let earlier = *calls;
            *calls = calls.saturating_add(1);
            answer(Call { library, scenario: &scenario, target: *target, earlier })
        })
    }
}

fn with_library<T>(use_it: impl FnOnce(&mut Library) -> T) -> T {
    let mut library: MutexGuard<'_, Option<Library>> = LIBRARY.lock().unwrap_or_else(PoisonError::into_inner);
    use_it(library.get_or_insert_with(Library::new))
}

fn refuse_lost(device: &Device) -> Reply {
    match device.state {
        DeviceState::Healthy => Ok(()),
        DeviceState::Lost => Err(nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST),
    }
}

impl Library {
    fn new() -> Self {
        Self {
            initialisations: 0,
            driver_loads: 0,
            stamp: None,
            scenario: None,
            handles: Handles::new(),
            delivery: Delivery::default(),
            fault_calls: Vec::new(),
            calls: HashMap::new(),
        }
    }

    fn forget_clients(&mut self) {
        self.initialisations = 0;
        self.delivery.free_all();
    }

    /// The scenario as the file holds it now, if a call may be made under it.
    fn usable(&mut self, after_init: bool) -> Result<Arc<Scenario>, nvmlReturn_t> {
        let scenario = self.current()?;
        let initialised = self.initialisations > 0 && self.driver_loads == scenario.driver_loads;
        if after_init && !initialised { Err(nvmlReturn_enum_NVML_ERROR_UNINITIALIZED) } else { Ok(scenario) }
    }

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
            self.calls.clear();
            self.fault_calls = vec![0; self.scenario.as_ref().map_or(0, |scenario| scenario.faults.len())];
            if let Some(scenario) = &self.scenario {
                self.delivery.follow(&scenario.events, Instant::now());
            }
            self.stamp = stamp;
        }
        self.scenario.clone().ok_or(nvmlReturn_enum_NVML_ERROR_UNKNOWN)
    }

    fn fault_due(&mut self, scenario: &Scenario, symbol: Symbol, target: Option<Target>) -> Option<Behaviour> {
        let device = target.and_then(|target| u32::try_from(target.device).ok());
        scenario.faults.iter().zip(&mut self.fault_calls).find_map(|(fault, calls)| {
            let named = fault.symbol == symbol.0 || names_every_symbol(fault);
            if !named || !(fault.device.is_none() || fault.device == device) {
                return None;
            }
            *calls += 1;
            (*calls > fault.after_calls).then_some(fault.behaviour)
        })
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
