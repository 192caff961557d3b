//! Checks of the charts: Helm's own, their value schemas, and a real API server's opinion of what they render.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use koinon_e2e::cache::Cache;
use koinon_e2e::toolchain::{Report, checkout};
use koinon_e2e::{Datacenter, Fleet, Tool, Toolchain, command};

use crate::test::Tally;

const CHARTS: [&str; 2] = ["koinon-crds", "koinon"];

/// Runs every check and counts it as a test.
pub async fn check(tally: &mut Tally, report: Report<'_>) -> Result<()> {
    let helm = Toolchain::ensure(&Cache::from_env()?, report)?.path(Tool::Helm).to_owned();
    for chart in CHARTS {
        let folder = checkout().join("charts").join(chart);
        tally.record(&format!("charts::{chart}::lint"), lint(&helm, &folder, None));
        for values in values_files(&folder)? {
            let name = values.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let result = lint(&helm, &folder, Some(&values));
            let result = if name.starts_with("bad-") { refused_by_schema(result) } else { result };
            tally.record(&format!("charts::{chart}::values::{name}"), result);
        }
    }
    let fleet = Fleet::start_with(&["charts"], report, koinon_e2e::DatacenterSpec::without_node).await?;
    let datacenter = fleet.get("charts")?;
    tally.record("charts::an_api_server_accepts_everything_that_is_rendered", accepted(datacenter, &helm).await);
    tally.record("charts::an_api_server_accepts_every_sample", samples(datacenter).await);
    fleet.down()
}

/// What `chart` cannot be rendered without.
pub fn example(chart: &str) -> &'static [&'static str] {
    // A registry that nobody can own: whoever installs names another one.
    if chart == "koinon" { &["--set", "image.repository=registry.example/koinon"] } else { &[] }
}

fn lint(helm: &Path, chart: &Path, values: Option<&Path>) -> Result<()> {
    let mut lint = Command::new(helm);
    lint.args(["lint", "--strict"]).arg(chart);
    if let Some(values) = values {
        lint.arg("--values").arg(values);
    }
    command::run(&mut lint).map(drop)
}

/// `bad-*.yaml` are values that the schema must refuse; a refusal for any other reason proves nothing about it.
fn refused_by_schema(linted: Result<()>) -> Result<()> {
    match linted {
        Ok(()) => bail!("the schema accepts these values"),
        Err(error) if error.to_string().contains("don't meet the specifications of the schema") => Ok(()),
        Err(error) => Err(error.context("refused, but not by the schema")),
    }
}

/// Example values beside a chart, in `ci/`.
fn values_files(chart: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(chart.join("ci")) else { return Ok(Vec::new()) };
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    Ok(files)
}

/// Installs the definitions and lets the server judge the rest, with its own schemas and admission.
async fn accepted(datacenter: &Datacenter, helm: &Path) -> Result<()> {
    for chart in CHARTS {
        let mut template = Command::new(helm);
        template
            .args(["template", "koinon"])
            .arg(checkout().join("charts").join(chart))
            .args(["--namespace", "koinon-system"])
            .args(example(chart));
        let rendered = command::run(&mut template)?;
        ensure!(rendered.contains("kind:"), "{chart} renders nothing");
        datacenter.kubectl(["create", "namespace", "koinon-system"]).await.or_else(|error| {
            if error.to_string().contains("AlreadyExists") { Ok(String::new()) } else { Err(error) }
        })?;
        datacenter.apply(&rendered).await.with_context(|| format!("applying what {chart} renders"))?;
    }
    Ok(())
}

/// Applies the samples without keeping them; every kind that a person writes has one.
async fn samples(datacenter: &Datacenter) -> Result<()> {
    let folder = checkout().join("manifests/samples");
    let folder = folder.to_str().context("the checkout's path is not text")?;
    datacenter.kubectl(["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).await?;
    // A server that only tries keeps no namespace for the samples that stand in it.
    let namespace = format!("{folder}/namespace.yaml");
    datacenter.kubectl(["apply", "--server-side", "--filename", &namespace]).await?;
    datacenter
        .kubectl(["apply", "--server-side", "--dry-run=server", "--recursive", "--filename", folder])
        .await
        .map(drop)
}
