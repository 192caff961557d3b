//! Prints what the library at the given path says through `nvml-wrapper`, one line an answer. The library reads its
//! scenario from the environment and has one state a process, so each test asks it in a process of its own.
//!
//! `probe LIBRARY [MILLISECONDS]`: with a time, it asks again after that time on the same initialised library.

use std::ffi::OsString;
use std::fmt::Display;
use std::time::Duration;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

fn main() -> Result<(), OsString> {
    let mut arguments = std::env::args_os().skip(1);
    let library = arguments.next().ok_or("name the library")?;
    let pause = arguments.next().and_then(|text| text.to_str()?.parse().ok()).map(Duration::from_millis);
    let nvml = match Nvml::builder().lib_path(&library).init() {
        Ok(nvml) => nvml,
        Err(error) => {
            say("init", Err::<&str, _>(error));
            return Ok(());
        }
    };
    survey(&nvml);
    if let Some(pause) = pause {
        std::thread::sleep(pause);
        survey(&nvml);
    }
    say("shutdown", nvml.shutdown().map(|()| "ok"));
    Ok(())
}

fn survey(nvml: &Nvml) {
    say("driver", nvml.sys_driver_version());
    say("nvml", nvml.sys_nvml_version());
    say("cuda", nvml.sys_cuda_driver_version());
    let count = nvml.device_count();
    let devices = *count.as_ref().unwrap_or(&0);
    say("count", count);
    for index in 0..devices.min(300) {
        let device = match nvml.device_by_index(index) {
            Ok(device) => device,
            Err(error) => {
                say(&format!("{index} handle"), Err::<&str, _>(error));
                continue;
            }
        };
        say(&format!("{index} uuid"), device.uuid());
        say(&format!("{index} name"), device.name().map(|name| name.escape_default().to_string()));
        say(&format!("{index} memory"), device.memory_info().map(|memory| memory.total));
        say(&format!("{index} mig"), device.mig_mode().map(|mode| format!("{}/{}", mode.current, mode.pending)));
        let divided = device.mig_mode().is_ok_and(|mode| mode.current == 1);
        for place in 0..if divided { device.mig_device_count().unwrap_or(0) } else { 0 } {
            if let Ok(instance) = device.mig_device_by_index(place) {
                say(&format!("{index}/{place} uuid"), instance.uuid());
            }
        }
        // Not exported: shows how an absent symbol looks.
        say(&format!("{index} fan"), device.fan_speed(0));
    }
}

fn say(what: &str, answer: Result<impl Display, NvmlError>) {
    match answer {
        Ok(value) => println!("{what}: {value}"),
        Err(NvmlError::FailedToLoadSymbol(_)) => println!("{what}: absent"),
        Err(NvmlError::LibloadingError(_)) => println!("{what}: no library"),
        Err(NvmlError::Utf8Error(_)) => println!("{what}: not text"),
        Err(error) => println!("{what}: error {}", u32::from(error)),
    }
}
