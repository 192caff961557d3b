//! The watching process: `koinon agent watch`, which only the agent starts.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::super::MAX_DEVICES;
use super::super::failure::Failure;
use super::super::nvml::{Event, EventSet, Handle, Library, Trace, counted};
use super::super::wire::{Failed, Raw, code};
use super::wire::{Line, MARK, RawEvent, kind};

/// What no state of a device depends on. A survey reads the counter of corrected errors, a storm of which comes at a million
/// events a minute.
const UNWANTED: u64 =
    kind::SINGLE_BIT_ECC | kind::SINGLE_BIT_ECC_STORM | kind::PSTATE | kind::CLOCK | kind::POWER_SOURCE;
/// The types that every driver knows: XIDs and uncorrected memory errors. For drivers that do not say which they know.
const ALWAYS_KNOWN: u64 = 0xA;
/// At most five times a second something is printed; what comes meanwhile is printed together.
const GATHERED: Duration = Duration::from_millis(200);
/// So many kinds of events at a time; of more, the first are told and the rest asks for a survey.
const MAX_KINDS: usize = 1024;
/// A wait that fails at once must not spin.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// After so many failures in a row the process ends, and the next initialises the library anew.
const MAX_ERRORS: u32 = 10;

/// Flags of the watching process.
#[derive(Debug, Clone, clap::Args)]
pub struct WatchArgs {
    /// The NVML library: a file, or a name that the dynamic linker knows.
    #[arg(long, env = "KOINON_NVML_LIB", default_value = "libnvidia-ml.so.1")]
    pub nvml_lib: PathBuf,
    /// Milliseconds of each wait, and so between two signs of life.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(10..=60_000))]
    pub wait_milliseconds: u32,
}

/// Prints one line an event, and one each wait that brought none, until its standard input ends. The process should end with
/// what this returns.
pub fn watch_main(args: &WatchArgs) -> ExitCode {
    // The wait cannot be interrupted, so the process ends beside it, as soon as nobody listens any more.
    std::thread::spawn(|| {
        let mut input = std::io::stdin().lock();
        let mut buffer = [0; 64];
        while matches!(input.read(&mut buffer), Ok(1..)) {}
        std::process::exit(0);
    });
    let failed = match watch(args) {
        Ok(never) => match never {},
        Err(Ended::Failed(failed)) => failed,
        Err(Ended::Unheard(error)) => {
            eprintln!("printing an event: {error}");
            return ExitCode::FAILURE;
        }
    };
    match print(&Line::Failed(failed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("printing why it ends: {error}");
            ExitCode::FAILURE
        }
    }
}

enum Ended {
    Failed(Failed),
    Unheard(std::io::Error),
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Unheard(error)
    }
}

fn watch(args: &WatchArgs) -> Result<std::convert::Infallible, Ended> {
    let library = Library::open(args.nvml_lib.as_os_str(), Trace::off()).map_err(Ended::Failed)?;
    let count = counted(&library).map_err(Ended::Failed)?.min(MAX_DEVICES);
    let set = match library.event_set() {
        Raw::Value(set) => set,
        not => return Err(failed("making an event set", &not)),
    };
    let devices = register(&library, &set, count)?;
    let registered = u32::try_from(devices.len()).unwrap_or(0);
    print(&Line::Registered { devices: registered, of: count })?;
    let mut watch = Watching { library, set, devices, printed: None };
    let patience = Duration::from_millis(u64::from(args.wait_milliseconds));
    if registered == 0 {
        // There is nothing to wait for; its agent starts it anew when there are other devices.
        loop {
            std::thread::sleep(patience);
            print(&Line::Beat)?;
        }
    }
    watch.wait(patience)
}

/// Registers each device for what it can tell. One that cannot be registered says nothing of the others.
fn register(library: &Library, set: &EventSet, count: u32) -> Result<BTreeMap<usize, (Handle, String)>, Ended> {
    let mut devices = BTreeMap::new();
    for index in 0..count {
        let Raw::Value(handle) = library.device(index) else { continue };
        let Raw::Value(uuid) = library.uuid(handle) else { continue };
        let supported = match library.supported_events(handle) {
            Raw::Value(supported) => supported & !UNWANTED,
            Raw::NoSymbol => ALWAYS_KNOWN,
            _ => continue,
        };
        if supported == 0 {
            continue;
        }
        match library.register(set, handle, supported) {
            Raw::Value(()) => {
                devices.insert(devices.len(), (handle, uuid));
            }
            // NVIDIA leaves the set undefined after this one.
            not @ Raw::Code(code::UNKNOWN) => return Err(failed("registering a device for events", &not)),
            _ => {}
        }
    }
    Ok(devices)
}

struct Watching {
    library: Library,
    set: EventSet,
    devices: BTreeMap<usize, (Handle, String)>,
    printed: Option<Instant>,
}

/// What makes two events alike.
type Kind = (Option<String>, u64, u64, u32, u32);

impl Watching {
    fn wait(&mut self, patience: Duration) -> Result<std::convert::Infallible, Ended> {
        let mut errors = 0;
        let mut beat = Instant::now();
        loop {
            match self.library.wait(&self.set, milliseconds(patience)) {
                Raw::Value(event) => {
                    errors = 0;
                    self.gather(event)?;
                    // Also in a storm without end it says that it lives.
                    if beat.elapsed() >= patience {
                        print(&Line::Beat)?;
                        beat = Instant::now();
                    }
                }
                Raw::Code(code::TIMEOUT) => {
                    errors = 0;
                    print(&Line::Beat)?;
                    beat = Instant::now();
                }
                not => {
                    errors += 1;
                    let code = if let Raw::Code(code) = not { code } else { code::UNKNOWN };
                    print(&Line::Error(code))?;
                    // After a reload of the driver no further wait helps: the next process initialises the library anew.
                    if errors >= MAX_ERRORS || matches!(not, Raw::NoSymbol | Raw::Code(code::UNINITIALIZED)) {
                        return Err(failed("waiting for events", &not));
                    }
                    std::thread::sleep(AFTER_ERROR);
                }
            }
        }
    }

    /// Prints an event at once if none was printed lately, and otherwise with those that come until it may.
    fn gather(&mut self, first: Event) -> Result<(), Ended> {
        let mut gathered: BTreeMap<Kind, u64> = BTreeMap::new();
        gathered.insert(self.kind(first), 1);
        let until = self.printed.map_or_else(Instant::now, |printed| printed + GATHERED);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let Raw::Value(event) = self.library.wait(&self.set, milliseconds(left)) else { break };
            let event = self.kind(event);
            // Of whom is nothing known any more: an event of no kind asks for a survey.
            let event =
                if gathered.len() < MAX_KINDS || gathered.contains_key(&event) { event } else { (None, 0, 0, 0, 0) };
            *gathered.entry(event).or_default() += 1;
        }
        for ((uuid, kind, data, gpu_instance, compute_instance), times) in gathered {
            print(&Line::Event(RawEvent { uuid, kind, data, gpu_instance, compute_instance, times }))?;
        }
        self.printed = Some(Instant::now());
        Ok(())
    }

    fn kind(&self, event: Event) -> Kind {
        let known = |handle: Handle| {
            let known = self.devices.values().find(|(known, _)| *known == handle).map(|(_, uuid)| uuid.clone());
            known.or_else(|| if let Raw::Value(uuid) = self.library.uuid(handle) { Some(uuid) } else { None })
        };
        (event.device.and_then(known), event.kind, event.data, event.gpu_instance, event.compute_instance)
    }
}

fn milliseconds(time: Duration) -> u32 {
    // Not 0, with which a wait in a loop spins.
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1)
}

fn failed<T>(doing: &str, answer: &Raw<T>) -> Ended {
    let code = if let Raw::Code(code) = answer { Some(*code) } else { None };
    let failure = if code.is_some() { Failure::Error } else { Failure::SymbolMissing };
    let message = match code {
        Some(code) => format!("{doing}: NVML returned {code}"),
        None => format!("{doing}: this library has no such function"),
    };
    Ended::Failed(Failed { failure, code, message })
}

fn print(line: &Line) -> std::io::Result<()> {
    let line = format!("\n{MARK}{}\n", serde_json::to_string(line)?);
    let mut output = std::io::stdout().lock();
    output.write_all(line.as_bytes())?;
    output.flush()
}
