//! A wire and the datacenters on it.

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context as _, Error, Result, ensure};
use tokio::task::JoinSet;

use crate::cache::Cache;
use crate::datacenter::Datacenter;
use crate::image::{self, Image};
use crate::network::Wire;
use crate::node;
use crate::preflight;
use crate::run::{self, Instance, Made, Run};
use crate::spec::DatacenterSpec;
use crate::toolchain::{self, Report, Toolchain};

/// More than a small machine holds, and few enough that each has its own digit in an address.
const MAX_DATACENTERS: usize = 9;

/// The datacenters of one run.
#[derive(Debug)]
pub struct Fleet {
    run: Arc<Run>,
    toolchain: Arc<Toolchain>,
    wire: Wire,
    datacenters: Vec<Arc<Datacenter>>,
    /// Held while this process may change the run.
    _lock: File,
}

impl Fleet {
    /// Checks the machine, makes the wire and starts the named datacenters at the same time, in `.11`, `.12`, … on the wire.
    /// If one fails, everything is taken down again.
    pub async fn start(names: &[&str], report: Report<'_>) -> Result<Self> {
        Self::start_with(names, report, |spec| spec).await
    }

    /// The same, with a chance to change each datacenter's specification.
    pub async fn start_with(
        names: &[&str],
        report: Report<'_>,
        adjust: impl Fn(DatacenterSpec) -> DatacenterSpec,
    ) -> Result<Self> {
        let specs = specs(names, adjust)?;
        let lock = run::lock()?;
        preflight::check()?;
        let cache = Cache::from_env()?;
        toolchain::ensure_system_packages(report)?;
        let toolchain = Arc::new(Toolchain::ensure(&cache, report)?);
        let pause = image::pause(&cache, report)?;
        let run = Arc::new(Run::begin()?);
        match Self::raise(run.clone(), toolchain, specs, &pause, lock).await {
            Ok(fleet) => Ok(fleet),
            Err(error) => {
                // The logs are what explains the failure; they stay beside the run's folder.
                let kept = keep_logs(&run);
                if let Err(left) = Run::open().and_then(Run::down) {
                    return Err(error.context(format!("and cleaning up failed too: {left:#}")));
                }
                Err(error.context(format!("the logs are kept in {}", kept.unwrap_or_default())))
            }
        }
    }

    async fn raise(
        run: Arc<Run>,
        toolchain: Arc<Toolchain>,
        specs: Vec<DatacenterSpec>,
        pause: &Image,
        lock: File,
    ) -> Result<Self> {
        let prefix = run.instance().prefix();
        run.note(&Made::ControlGroup { group: prefix.clone() })?;
        run.groups().create(&prefix)?;
        node::prepare_mount_folder(&run)?;
        let wire = Wire::create(&run)?;
        let mut starting = JoinSet::new();
        for spec in specs {
            let (run, toolchain, wire, pause) = (run.clone(), toolchain.clone(), wire.clone(), pause.clone());
            starting.spawn(async move { Datacenter::start(run, toolchain, &wire, spec, &pause).await });
        }
        // All of them come to an end before a failure is told: what is still starting could not be taken down completely.
        let started = starting.join_all().await;
        let mut datacenters = started.into_iter().map(|started| started.map(Arc::new)).collect::<Result<Vec<_>>>()?;
        datacenters.sort_by_key(|datacenter| datacenter.spec().address);
        Ok(Self { run, toolchain, wire, datacenters, _lock: lock })
    }

    /// Takes over the fleet that another process of ours left running.
    pub async fn attach(report: Report<'_>) -> Result<Self> {
        let lock = run::lock()?;
        let run = Arc::new(Run::open()?);
        let toolchain = Arc::new(Toolchain::ensure(&Cache::from_env()?, report)?);
        let wire = Wire::of(&run);
        let mut datacenters = Vec::new();
        for made in run.made()? {
            if let Made::Datacenter { spec } = made {
                datacenters.push(Arc::new(Datacenter::attach(run.clone(), toolchain.clone(), &wire, *spec).await?));
            }
        }
        datacenters.sort_by_key(|datacenter| datacenter.spec().address);
        Ok(Self { run, toolchain, wire, datacenters, _lock: lock })
    }

    /// Every datacenter, in the order of their addresses.
    pub fn datacenters(&self) -> &[Arc<Datacenter>] {
        &self.datacenters
    }

    /// The run.
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// The programs.
    pub fn toolchain(&self) -> &Toolchain {
        &self.toolchain
    }

    /// The wire.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// The datacenter of this name.
    pub fn get(&self, name: &str) -> Result<&Arc<Datacenter>> {
        let found = self.datacenters.iter().find(|datacenter| datacenter.name() == name);
        found.with_context(|| format!("there is no datacenter {name} in this run"))
    }

    /// Stops and removes everything. Other values that still point here find nothing any more.
    pub fn down(&self) -> Result<()> {
        Run::open()?.down()
    }
}

/// One specification a name, each at an address of its own.
fn specs(names: &[&str], adjust: impl Fn(DatacenterSpec) -> DatacenterSpec) -> Result<Vec<DatacenterSpec>> {
    ensure!(
        !names.is_empty() && names.len() <= MAX_DATACENTERS,
        "name 1 to {MAX_DATACENTERS} datacenters, not {}",
        names.len()
    );
    let instance = Instance::from_env()?;
    let mut specs: Vec<DatacenterSpec> = Vec::new();
    for (index, name) in (0..).zip(names) {
        let spec = adjust(DatacenterSpec::at(instance, index, name));
        spec.check().map_err(Error::msg)?;
        ensure!(
            specs.iter().all(|other| other.name != spec.name),
            "two datacenters are called {name}; a name is one datacenter's"
        );
        specs.push(spec);
    }
    Ok(specs)
}

/// Removes the run that stands, whoever made it, and the logs of one that failed; says whether there was any.
pub fn down() -> Result<bool> {
    let _lock = run::lock()?;
    let folder = Run::folder()?;
    let logs = run::kept_logs(&folder);
    let mut found = logs.exists();
    if found {
        std::fs::remove_dir_all(&logs).with_context(|| format!("removing {}", logs.display()))?;
    }
    if folder.join(run::LIST).exists() {
        found = true;
        Run::open()?.down()?;
    }
    Ok(found)
}

/// Copies all logs beside the run's folder, which is about to be removed.
pub fn keep_logs(run: &Run) -> Option<String> {
    let kept = run.kept_logs();
    run.remove_kept_logs().ok()?;
    for entry in std::fs::read_dir(run.dir()).ok()?.flatten() {
        let logs = entry.path().join("log");
        if logs.is_dir() {
            let to = kept.join(entry.file_name());
            std::fs::create_dir_all(&to).ok()?;
            crate::command::run(
                std::process::Command::new("cp").args(["--recursive", "--no-target-directory"]).arg(&logs).arg(&to),
            )
            .ok()?;
        }
    }
    Some(kept.display().to_string())
}
