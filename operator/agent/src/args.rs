//! Flags of `koinon agent`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use koinon_core::gpu::health::Limits;
use koinon_core::ids::NodeName;

use crate::survey::{SurveyArgs, WatchArgs, survey_main, watch_main};
use crate::usage::UsageArgs;

/// Surveys the GPUs of the node that it runs on and says what it found in the node's GPUNode.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct AgentArgs {
    /// The node that this agent runs on, as the API server knows it.
    #[arg(long, env = "KOINON_NODE_NAME", required = true)]
    pub node_name: Option<NodeName>,
    /// The namespace of the agent, where its heartbeat Lease stands.
    #[arg(long, env = "KOINON_NAMESPACE", default_value = koinon_api::labels::AGENT_NAMESPACE)]
    pub namespace: String,
    /// The NVML library: a file, or a name that the dynamic linker knows.
    #[arg(long, env = "KOINON_NVML_LIB", default_value = "libnvidia-ml.so.1")]
    pub nvml_lib: PathBuf,
    /// Seconds from one survey, and one heartbeat, to the next.
    #[arg(long, env = "KOINON_SURVEY_INTERVAL", default_value = "10", value_parser = seconds)]
    pub survey_interval: Duration,
    /// Seconds after which a survey is given up.
    #[arg(long, env = "KOINON_SURVEY_DEADLINE", default_value = "10", value_parser = seconds)]
    pub survey_deadline: Duration,
    /// The kernel's log, usually /dev/kmsg, from which errors of GPUs are read as well; without it NVML alone tells of them,
    /// which of several at once tells only the last.
    #[arg(long, env = "KOINON_KERNEL_LOG")]
    pub kernel_log: Option<PathBuf>,
    /// Where the node says who uses its GPUs.
    #[command(flatten)]
    pub usage: UsageArgs,
    /// Show the values of devices under the names of dcgm-exporter too. Not where that runs itself: figures would count twice.
    #[arg(long, env = "KOINON_DCGM_METRICS")]
    pub dcgm_metrics: bool,
    /// Limits of the health rules for this owner's hardware, as JSON by name, such as {"hotPeriod": 600}: seconds, thousandths or
    /// counts. What is not given is as the rules have it.
    #[arg(long, env = "KOINON_LIMITS", value_name = "JSON", value_parser = limits)]
    pub limits: Option<OwnerLimits>,
    /// The namespace of the operator, which passes on there what the cooperative voted about XIDs. Without it the built-in table
    /// alone counts.
    #[arg(long, env = "KOINON_XID_TABLE", value_name = "NAMESPACE")]
    pub xid_table: Option<String>,
    /// Seconds from one look at that to the next.
    #[arg(long, env = "KOINON_XID_TABLE_INTERVAL", default_value = "120", value_parser = interval)]
    pub xid_table_interval: Duration,
    /// What to do instead of running the agent.
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
}

/// Limits that an owner has set; they are within their bounds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnerLimits(pub(crate) Limits);

/// What `koinon agent` does when it is not the agent.
#[derive(Debug, Clone, Subcommand)]
pub enum AgentCommand {
    /// Survey once and print the answer; the agent starts this.
    #[command(hide = true)]
    Survey(SurveyArgs),
    /// Wait for events of the GPUs and print them; the agent starts this.
    #[command(hide = true)]
    Watch(WatchArgs),
}

impl AgentCommand {
    /// Does it. The process should end with what this returns; it needs no runtime and writes no logs.
    pub fn run(&self) -> ExitCode {
        match self {
            Self::Survey(args) => survey_main(args),
            Self::Watch(args) => watch_main(args),
        }
    }
}

fn limits(text: &str) -> Result<OwnerLimits, String> {
    let limits: Limits = serde_json::from_str(text).map_err(|error| error.to_string())?;
    limits.validate().map_err(|error| error.to_string())?;
    Ok(OwnerLimits(limits))
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=3_600) => Ok(Duration::from_secs(seconds)),
        _ => Err("must be a whole number of seconds from 1 to 3600".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        // The heartbeat counts for 30 s, so that at most one beat in three may be missed at the upper end.
        Ok(seconds @ 1..=15) => Ok(Duration::from_secs(seconds)),
        _ => Err("must be a whole number of seconds from 1 to 15".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Koinon {
        #[command(subcommand)]
        role: Role,
    }

    #[derive(Debug, Subcommand)]
    enum Role {
        Agent(AgentArgs),
    }

    fn parse(arguments: &[&str]) -> Result<AgentArgs, clap::Error> {
        let Koinon { role: Role::Agent(args) } = Koinon::try_parse_from([&["koinon", "agent"], arguments].concat())?;
        Ok(args)
    }

    #[test]
    fn the_agent_needs_the_name_of_its_node_and_the_surveying_process_does_not() {
        let error = parse(&[]).unwrap_err().to_string();
        assert!(error.contains("--node-name"), "{error}");
        let args = parse(&["--node-name", "bilbao-1"]).unwrap();
        assert_eq!((args.survey_interval.as_secs(), args.command.is_none()), (10, true));
        let args = parse(&["survey", "--nvml-lib", "/lib/x.so"]).unwrap();
        assert!(
            matches!(args.command, Some(AgentCommand::Survey(SurveyArgs { nvml_lib, nvml_trace: None })) if nvml_lib.as_os_str() == "/lib/x.so")
        );
    }

    #[test]
    fn an_interval_that_would_outlast_the_heartbeat_is_refused() {
        for wrong in ["0", "16", "-1", "ten"] {
            assert!(parse(&["--node-name", "n", "--survey-interval", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_are_read_by_name_and_refused_beyond_their_bounds() {
        let given = |json: &str| parse(&["--node-name", "n", "--limits", json]);
        let set = given(r#"{"hotPeriod": 600}"#).unwrap().limits.unwrap_or_default().0;
        assert_eq!(set.hot_period, koinon_core::ids::Seconds(600));
        for (wrong, said) in
            [(r#"{"hotPeriod": 7200}"#, "60 to 3600"), (r#"{"hot": 1}"#, "unknown field"), ("5", "invalid type")]
        {
            let error = given(wrong).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(parse(&["--node-name", "n"]).unwrap().limits.is_none());
    }

    #[test]
    fn who_uses_gpus_is_asked_where_a_flag_says_so_and_of_gpus_alone() {
        let usage = parse(&["--node-name", "n"]).unwrap().usage;
        let none = UsageArgs::default();
        assert_eq!((usage.pod_resources, usage.host_proc), (None, None));
        assert_eq!((usage.gpu_resources, usage.gpu_drivers), (none.gpu_resources, none.gpu_drivers));
        let given =
            ["--pod-resources", "/p/kubelet.sock", "--host-proc", "/proc", "--gpu-resources", "a.b/gpu,a.b/mig-"];
        let usage = parse(&[&["--node-name", "n"], &given[..]].concat()).unwrap().usage;
        assert_eq!(usage.pod_resources.unwrap().as_os_str(), "/p/kubelet.sock");
        assert_eq!((usage.host_proc.unwrap().as_os_str(), usage.gpu_resources.len()), ("/proc".as_ref(), 2));
    }

    #[test]
    fn a_node_name_that_no_node_can_have_is_refused() {
        assert!(parse(&["--node-name", "../etc"]).is_err());
    }
}
