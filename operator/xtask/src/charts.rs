//! Checks of the charts: Helm's own, their value schemas, and a real API server's opinion of what they render.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use koinon_e2e::cache::Cache;
use koinon_e2e::toolchain::{Report, checkout};
use koinon_e2e::{Datacenter, Fleet, Tool, Toolchain, command};

use crate::figures;
use crate::test::Tally;

const CHARTS: [&str; 2] = ["koinon-crds", "koinon"];

/// Runs every check and counts it as a test.
pub async fn check(tally: &mut Tally, report: Report<'_>) -> Result<()> {
    let toolchain = Toolchain::ensure(&Cache::from_env()?, report)?;
    let (helm, promtool) = (toolchain.path(Tool::Helm).to_owned(), toolchain.path(Tool::Promtool));
    figures::check(tally, promtool)?;
    for chart in CHARTS {
        let folder = checkout().join("charts").join(chart);
        tally.record(&format!("charts::{chart}::lint"), lint(&helm, &folder, None));
        for values in values_files(&folder)? {
            let result = lint(&helm, &folder, Some(&values));
            let result = if is_bad(&values) { refused_by_schema(result) } else { result };
            tally.record(&format!("charts::{chart}::values::{}", file_name(&values)), result);
        }
    }
    tally.record("charts::koinon::the_agents_namespace_allows_exactly_what_its_pod_needs", agent_level(&helm));
    let fleet = Fleet::start_with(&["charts"], report, koinon_e2e::DatacenterSpec::without_node).await?;
    let datacenter = fleet.get("charts")?;
    tally.record("charts::an_api_server_accepts_everything_that_is_rendered", accepted(datacenter, &helm).await);
    for values in values_files(&checkout().join("charts/koinon"))?.iter().filter(|path| !is_bad(path)) {
        let result = accepted_with(datacenter, &helm, values).await;
        tally.record(&format!("charts::an_api_server_accepts_what_is_rendered_with::{}", file_name(values)), result);
    }
    tally.record("charts::an_api_server_accepts_every_sample", samples(datacenter).await);
    tally.record("charts::every_kind_that_a_person_writes_has_a_sample", every_kind_has_a_sample());
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

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether these values are there to be refused.
fn is_bad(values: &Path) -> bool {
    file_name(values).starts_with("bad-")
}

/// Example values beside a chart, in `ci/`.
fn values_files(chart: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(chart.join("ci")) else { return Ok(Vec::new()) };
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    Ok(files)
}

/// Kinds of other projects that values can ask for, and whose definitions a bare server does not have.
const ELSEWHERE: [&str; 1] = ["ServiceMonitor"];
/// Kinds of Koinon that only its own parts write; whatever else it defines is for people.
const OUR_OWN: [&str; 5] = ["GPUNode", "GPUOffer", "Placement", "PolicyVersion", "Statement"];

/// Renders a chart as Helm would install it.
fn rendered(helm: &Path, chart: &str, values: Option<&Path>) -> Result<String> {
    let mut template = Command::new(helm);
    template
        .args(["template", "koinon"])
        .arg(checkout().join("charts").join(chart))
        .args(["--namespace", "koinon-system"])
        .args(example(chart));
    if let Some(values) = values {
        template.arg("--values").arg(values);
    }
    let rendered = command::run(&mut template)?;
    ensure!(rendered.contains("kind:"), "{chart} renders nothing");
    Ok(rendered)
}

/// Installs the definitions and lets the server judge the rest, with its own schemas and admission.
async fn accepted(datacenter: &Datacenter, helm: &Path) -> Result<()> {
    for chart in CHARTS {
        let rendered = rendered(helm, chart, None)?;
        datacenter.kubectl(["create", "namespace", "koinon-system"]).await.or_else(|error| {
            if error.to_string().contains("AlreadyExists") { Ok(String::new()) } else { Err(error) }
        })?;
        datacenter.apply(&rendered).await.with_context(|| format!("applying what {chart} renders"))?;
    }
    Ok(())
}

/// Lets the server judge what example values render, keeping nothing of it; kinds that it cannot know are left out by name.
async fn accepted_with(datacenter: &Datacenter, helm: &Path, values: &Path) -> Result<()> {
    let (known, left_out) = without_elsewhere(&rendered(helm, "koinon", Some(values))?)?;
    for name in &left_out {
        println!("     {name} is not tried: this server has no definition of its kind");
    }
    let file = tempfile::NamedTempFile::new().context("making a temporary file")?;
    fs::write(file.path(), known)?;
    let file = file.path().to_str().context("the temporary folder's path is not text")?;
    // A StatefulSet's volumes are fixed once it is there. What the defaults made is in the way of judging the values' own.
    datacenter.kubectl(["delete", "statefulset", "--all", "--namespace", "koinon-system", "--cascade=orphan"]).await?;
    // The rest belongs to another field manager; here only the shape of the objects is in question.
    let try_it = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename", file];
    datacenter.kubectl(try_it).await.map(drop)
}

/// Fails if the namespace of the agent is open without need, or closed to the agent.
fn agent_level(helm: &Path) -> Result<()> {
    let (mut open, mut closed) = (0, 0);
    let files = values_files(&checkout().join("charts/koinon"))?;
    for values in files.iter().filter(|path| !is_bad(path)).map(Some).chain([None]) {
        let all = documents(&rendered(helm, "koinon", values.map(PathBuf::as_path))?);
        let Some(agent) = all.iter().find(|one| kind(one) == Some("DaemonSet")) else { continue };
        let namespace = all.iter().find(|one| kind(one) == Some("Namespace") && one.contains("koinon-agent"));
        let namespace = namespace.context("the agent has no namespace")?;
        let needs = ["hostPath:", "hostPID: true", "privileged: true", "runAsUser: 0"].map(|more| agent.contains(more));
        let is_open = namespace.contains("pod-security.kubernetes.io/enforce: privileged");
        let is_closed = namespace.contains("pod-security.kubernetes.io/enforce: restricted");
        let wants_more = needs.contains(&true);
        ensure!(
            is_open == wants_more && is_closed == !wants_more,
            "{values:?}: needs {needs:?}, and is given\n{namespace}"
        );
        if is_open { open += 1 } else { closed += 1 }
    }
    ensure!(open > 0 && closed > 0, "no values need more, or all do");
    Ok(())
}

/// The documents of a manifest whose kinds are not [`ELSEWHERE`], and the names of the others.
fn without_elsewhere(rendered: &str) -> Result<(String, Vec<String>)> {
    let (mut known, mut left_out) = (String::new(), Vec::new());
    for document in documents(rendered) {
        let Some(kind) = kind(&document) else { continue };
        if ELSEWHERE.contains(&kind) {
            let name = document.lines().find_map(|line| line.strip_prefix("  name: "));
            left_out.push(format!("{kind} {}", name.unwrap_or_default()));
        } else {
            known.push_str("---\n");
            known.push_str(&document);
        }
    }
    ensure!(!known.is_empty(), "nothing is left of what Helm rendered");
    Ok((known, left_out))
}

/// The documents of a file, as they are written.
fn documents(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for line in text.lines() {
        match all.last_mut() {
            Some(document) if line.trim_end() != "---" => {
                document.push_str(line);
                document.push('\n');
            }
            _ => all.push(String::new()),
        }
    }
    all
}

/// The kind of an object, which stands at the beginning of a line of its own.
fn kind(document: &str) -> Option<&str> {
    document.lines().find_map(|line| line.strip_prefix("kind: ")).map(str::trim)
}

/// The kind that a definition defines.
fn defined_kind(document: &str) -> Option<&str> {
    let names = document.lines().skip_while(|line| line.trim() != "names:");
    names.map(str::trim).find_map(|line| line.strip_prefix("kind: "))
}

/// Applies the samples without keeping them.
async fn samples(datacenter: &Datacenter) -> Result<()> {
    let folder = checkout().join("manifests/samples");
    let folder = folder.to_str().context("the checkout's path is not text")?;
    datacenter.definitions_served().await?;
    // A server that only tries keeps no namespace for the samples that stand in it.
    let namespace = format!("{folder}/namespace.yaml");
    datacenter.kubectl(["apply", "--server-side", "--filename", &namespace]).await?;
    datacenter
        .kubectl(["apply", "--server-side", "--dry-run=server", "--recursive", "--filename", folder])
        .await
        .map(drop)
}

/// Fails for every kind that Koinon defines, that people write, and of which there is no sample.
fn every_kind_has_a_sample() -> Result<()> {
    let defined = kinds(&checkout().join("crds"), defined_kind)?;
    let sampled = kinds(&checkout().join("manifests/samples"), kind)?;
    for ours in OUR_OWN {
        ensure!(defined.contains(ours), "{ours} is no kind that crds/ defines");
    }
    let missing: Vec<&str> =
        defined.difference(&sampled).map(String::as_str).filter(|kind| !OUR_OWN.contains(kind)).collect();
    ensure!(missing.is_empty(), "manifests/samples has no sample of {}", missing.join(", "));
    Ok(())
}

/// What `read` finds in every document of every YAML file in a folder.
fn kinds(folder: &Path, read: impl Fn(&str) -> Option<&str>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        found.extend(documents(&text).iter().filter_map(|document| read(document)).map(str::to_owned));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bare_server_cannot_know_is_left_out_by_name() {
        let rendered =
            "---\nkind: Service\nspec: {}\n---\n# nothing\n---\nkind: ServiceMonitor\nmetadata:\n  name: b\n";
        let (known, left_out) = without_elsewhere(rendered).unwrap();
        assert!(known.contains("kind: Service\n") && !known.contains("ServiceMonitor"), "{known}");
        assert_eq!(left_out, ["ServiceMonitor b"]);
        assert!(without_elsewhere("kind: ServiceMonitor\nmetadata:\n  name: b\n").is_err(), "nothing was tried");
    }

    #[test]
    fn a_person_finds_a_sample_of_every_kind() {
        every_kind_has_a_sample().unwrap();
        let sampled = kinds(&checkout().join("manifests/samples"), kind).unwrap();
        assert!(!sampled.contains("Placement"), "nobody writes one by hand");
    }
}
