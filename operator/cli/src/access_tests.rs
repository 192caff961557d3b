use clap::Parser as _;

use super::*;
use crate::Cli;

/// A kubeconfig with one cluster, whose only context is the current one.
fn file(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {name}\n\
         clusters: [{{name: {name}, cluster: {{server: 'https://{name}.example:6443'}}}}]\n\
         contexts: [{{name: {name}, context: {{cluster: {name}, user: {name}, namespace: team-{name}}}}}]\n\
         users: [{{name: {name}, user: {{token: t}}}}]\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn access(flags: &[&str]) -> Access {
    Cli::try_parse_from(["kubectl-koinon", "members"].iter().chain(flags)).unwrap().access
}

async fn reached(flags: &[&str], files: &[&Path]) -> anyhow::Result<(String, String)> {
    let list = std::env::join_paths(files).unwrap();
    let config = access(flags).config(Some(&list)).await?;
    Ok((config.cluster_url.host().unwrap().to_owned(), config.default_namespace))
}

fn told(host: &str, namespace: &str) -> (String, String) {
    (host.to_owned(), namespace.to_owned())
}

#[tokio::test]
async fn several_files_of_kubeconfig_are_read_as_one_and_the_first_current_context_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (file(dir.path(), "a"), file(dir.path(), "b"));
    assert_eq!(reached(&[], &[&a, &b]).await.unwrap(), told("a.example", "team-a"));
    assert_eq!(reached(&["--context", "b"], &[&a, &b]).await.unwrap(), told("b.example", "team-b"));
    assert_eq!(reached(&[], &[&b, &a]).await.unwrap(), told("b.example", "team-b"));
}

#[tokio::test]
async fn a_file_that_is_not_there_is_passed_over_and_a_broken_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (gone, b) = (dir.path().join("gone"), file(dir.path(), "b"));
    assert_eq!(reached(&[], &[&gone, &b]).await.unwrap(), told("b.example", "team-b"));
    let none = format!("{:#}", reached(&[], &[&gone]).await.unwrap_err());
    assert!(none.contains("none of the files of KUBECONFIG is there") && none.contains("gone"), "{none}");
    let broken = dir.path().join("broken");
    std::fs::write(&broken, "clusters: 7").unwrap();
    let named = format!("{:#}", reached(&[], &[&b, &broken]).await.unwrap_err());
    assert!(named.contains("broken of KUBECONFIG"), "{named}");
}

#[tokio::test]
async fn an_explicit_file_stands_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (file(dir.path(), "a"), file(dir.path(), "b"));
    let explicit = ["--kubeconfig", b.to_str().unwrap()];
    assert_eq!(reached(&explicit, &[&a]).await.unwrap(), told("b.example", "team-b"));
    let other = reached(&[explicit[0], explicit[1], "--context", "a"], &[&a]).await.unwrap_err();
    assert!(format!("{other:#}").contains("--context"), "{other:#}");
}

#[test]
fn namespace_means_the_release_wherever_there_is_no_job_to_find() {
    assert_eq!(access(&[]).about_the_release().release(), "koinon-system");
    assert_eq!(access(&["-n", "acme"]).about_the_release().release(), "acme");
    assert_eq!(access(&["--release-namespace", "acme"]).about_the_release().release(), "acme");
    let plan = Cli::try_parse_from(["kubectl-koinon", "plan", "-n", "team", "-f", "job.yaml"]).unwrap().access;
    assert_eq!((plan.namespace.as_deref(), plan.release()), (Some("team"), "koinon-system"));
    let key = ["kubectl-koinon", "apikey", "create", "web", "-n", "team", "-n", "other"];
    let cli = Cli::try_parse_from(key).unwrap();
    assert!(!cli.command.is_about_the_release(), "these are the namespaces that the key may call");
    assert!(Cli::try_parse_from(["kubectl-koinon", "apikey", "create", "web"]).is_err());
}
