//! A `libnvidia-ml.so.1` for tests. Its devices and its faults come from one JSON [`Scenario`] file, named by
//! `FAKE_NVML_SCENARIO` and read again whenever that file changes.
//!
//! It is honest about what it is:
//! - the driver calls itself `0.0-fake`, and every UUID begins with `GPU-fa4e0000-`, or `MIG-fa4e0000-` for an instance; a
//!   scenario that says otherwise is refused;
//! - a value that the scenario does not give is `NVML_ERROR_NOT_SUPPORTED`, never a likely default;
//! - arguments are checked as strictly as the driver's own library checks them;
//! - nothing is exported that changes hardware, so that a client which tries finds no such symbol.
//!
//! A scenario that cannot be read, or that holds an unknown key, makes every call return `NVML_ERROR_UNKNOWN`, with the
//! reason on standard error. With `FAKE_NVML_TRACE` every call is appended to that file as `symbol device return`.
//!
//! # What a scenario may say
//!
//! A key with `?` may be left out. Of a scenario, a device, a board, telemetry and errors every key may, but for the `uuid`.
//! Unknown keys are refused. Numbers of NVML's enumerations are plain numbers, so that a scenario can hold one that no client
//! knows. `Disabled|Enabled` is a switch; a text is `"…"`, or `{hex: "…"}` for bytes that are none.
//!
//! ```text
//! scenario    {driverVersion, nvmlVersion, cudaDriverVersion, driverLoads, count, counts: [n…], devices: [device…],
//!              faults: [fault…], events: [event…], lastXidOnly: bool,
//!              confidentialCompute: {environment, enabled: bool, devTools: bool, multiGpu, gpusReady?: bool}}
//! device      {uuid: "GPU-fa4e0000-…", name: text, memoryBytes, mig: {current: switch, pending: switch},
//!              state: Healthy|Lost, plugin: Follow|Healthy|Unhealthy|Absent, board, memory: {reservedBytes?, usedBytes?},
//!              telemetry, errors, fields: [field…], pcie: {generation?, maxGeneration?, width?, maxWidth?, replays?},
//!              nvlink: [{active: bool, replays?, recoveries?, crcFlit?, crcData?, eccData?}…],
//!              processes: {compute?, graphics?, mps?: {list: [{pid, usedBytes?, gi?, ci?}…], growsBy?, growsTimes?}},
//!              maxMigInstances, migInstances: [instance…], eventTypes: bits, draining: switch, confidential}
//! board       {serial: text, vbios: text, minor, brand, architecture, computeCapability: [major, minor], cores,
//!              pci: {domain, bus, device, deviceId, subsystemId, busId?: text}, persistence: switch, computeMode}
//! telemetry   {utilisation: {gpuPercent, memoryPercent}, temperatureCelsius, memoryTemperatureCelsius, marginCelsius,
//!              thresholds: {shutdown?, slowdown?, memoryMaximum?, gpuMaximum?}, powerMilliwatts, powerLimitMilliwatts,
//!              marginLimits: {shutdown, slowdown, memoryMaximum, gpuMaximum}, energyMillijoules,
//!              clocks: {graphics?, sm?, memory?, video?}, throttleReasons: bits, performanceState}
//! errors      {ecc: {current: switch, pending: switch, locations?: [{error, scope, location, count}…],
//!                    totals?: {correctedVolatile?, correctedAggregate?, uncorrectedVolatile?, uncorrectedAggregate?}},
//!              sram: {11 counters, thresholdExceeded: bool}, remappedRows: {correctable, uncorrectable, pending, failed},
//!              rowRemapper: {max, high, partial, low, none}, recoveryAction}
//! field       {id, scope?, value?: {unsignedInt|unsignedLongLong|signedInt|double|…: n}, return?, timestampMicroseconds?,
//!              labelled?}   goes before what follows from other values: 1–6, 82, 83, 91, 94, 142–145, 193–196, 230
//! instance    {index, uuid: "MIG-fa4e0000-…", gi, ci, name?: text, memoryBytes?, memory?, attributes?: {9 counts}}
//! confidential {attestationReport?, cecAttestationReport?, certificateChain?, attestationCertificateChain?:
//!              {bytes: text, claimedBytes?}}
//! event       {types: bits, afterMilliseconds?, device?: index, data?, gi?, ci?, times?, everyMilliseconds?,
//!              unasked?: bool}
//! fault       {symbol: name|"*", device?: index, afterCalls?, behaviour: {return: code}|{delayMilliseconds: n}|hang|crash}
//! ```
//!
//! # Adding a symbol
//!
//! Add an entry to its subject in `exports`, to [`Device`] the value that it reads, and a line to the table in
//! `tests/arguments.rs`.
//!
//! ```text
//!  exports (C symbols) ─▶ library (init count, faults due) ─▶ scenario (what the file says)
//!       │                    ├─▶ handles (which device or instance a call means)
//!       └▶ reply (checks)    └─▶ delivery (event sets, what was heard)      trace
//! ```

// A C library is a set of `no_mangle` functions that write through the caller's pointers: this crate alone needs that.
#![allow(unsafe_code)]

mod delivery;
mod exports;
mod handles;
mod library;
mod missing;
mod reply;
mod scenario;
mod trace;

pub use exports::SYMBOLS;
pub use missing::{MissingError, without_symbol};
pub use scenario::{
    Attributes, Behaviour, Blob, Board, Clocks, Confidential, ConfidentialCompute, DRIVER_MARK, Device, DeviceState,
    EVERY_SYMBOL, Ecc, EccCounter, EccError, EccLocation, EccScope, EccTotals, Errors, Event, Fault, Field, FieldValue,
    MAX_DEVICES, MIG_UUID_MARK, MarginLimits, MemoryUse, Mig, MigInstance, MigMode, NvLink, Pci, Pcie, PluginView,
    Process, ProcessList, Processes, ProductName, RemappedRows, RowRemapper, Scenario, ScenarioError, Sram, Switch,
    Telemetry, Text, Thresholds, UUID_MARK, Utilisation,
};
