//! Who would leave for an owner's wish, by the rules that the operator follows. Pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Node;
use koinon_api::reclaim::{Asked, node_of, running};
use koinon_api::{GPUPool, Placement};
use koinon_core::ids::{GpuClass, MemberId, NodeName, Seconds, UnixSeconds};
use koinon_core::placement::reclaim::{Running, Standing, Wish, choose};
use kube::ResourceExt as _;

use crate::cluster::time;
use crate::output::{age, table};

/// What was read of the cluster.
pub(super) struct House {
    me: MemberId,
    /// The oldest first: of two that select a device it has it.
    pub(super) pools: Vec<GPUPool>,
    labels: BTreeMap<String, BTreeMap<String, String>>,
    placements: Vec<Placement>,
    /// Homes that the rules no longer favour.
    disfavoured: BTreeSet<String>,
}

/// What the owner wants.
pub(super) enum Wanted {
    /// A node to become empty.
    Drain(NodeName),
    /// Others to hold no more of a class in a pool.
    Limit {
        /// The pool.
        pool: String,
        /// The class.
        class: GpuClass,
        /// What they may hold.
        most: u32,
    },
}

/// A copy that would leave.
pub(super) struct Leaver<'a> {
    placement: &'a Placement,
    /// Its pool's notice; none where no pool has its GPUs.
    notice: Option<Seconds>,
}

impl House {
    pub(super) fn new(
        me: MemberId,
        mut pools: Vec<GPUPool>,
        nodes: &[Node],
        placements: Vec<Placement>,
        disfavoured: BTreeSet<String>,
    ) -> Self {
        pools.sort_by_key(|pool| (pool.creation_timestamp().map(|time| time.0), pool.name_any()));
        let labels = nodes.iter().map(|node| (node.name_any(), node.labels().clone())).collect();
        Self { me, pools, labels, placements, disfavoured }
    }

    fn selects(&self, pool: &GPUPool, node: &NodeName) -> bool {
        let labels = self.labels.get(node.as_str());
        let has = |(key, value): (&String, &String)| labels.is_some_and(|labels| labels.get(key) == Some(value));
        labels.is_some() && pool.spec.node_selector.iter().all(has)
    }

    /// The pool to which a wish about a node is written.
    pub(super) fn pool_for(&self, node: &NodeName, named: Option<&str>) -> anyhow::Result<&GPUPool> {
        if !self.labels.contains_key(node.as_str()) {
            bail!("there is no node {node}; see kubectl get gpunodes");
        }
        let Some(name) = named else {
            let selecting = self.pools.iter().find(|pool| self.selects(pool, node));
            return selecting.with_context(|| format!("no pool selects {node}; see spec.nodeSelector of the pools"));
        };
        let pool = self.pools.iter().find(|pool| pool.name_any() == name);
        let pool = pool.with_context(|| format!("there is no pool {name}; see kubectl get gpupools"))?;
        if !self.selects(pool, node) {
            bail!("pool {name} does not select {node}, so its wish about it would be none; see its spec.nodeSelector");
        }
        Ok(pool)
    }

    /// The pool that has a Placement's GPUs.
    fn pool_of(&self, placement: &Placement) -> Option<&GPUPool> {
        let (node, class) = (node_of(placement)?, &placement.spec.gpu.class);
        let shares = |pool: &&GPUPool| pool.spec.classes.is_empty() || pool.spec.classes.contains(class);
        self.pools.iter().filter(shares).find(|pool| self.selects(pool, &node))
    }

    fn running(&self) -> Vec<(&Placement, Running)> {
        let here = self.placements.iter().filter(|placement| placement.spec.host == self.me.as_str());
        let standing = |placement: &Placement| {
            let home = &placement.spec.home;
            let out = home != self.me.as_str() && self.disfavoured.contains(home);
            if out { Standing::Disfavoured } else { Standing::Favoured }
        };
        here.filter_map(|placement| Some((placement, running(placement, standing(placement))?))).collect()
    }
}

/// Who would leave, in the order in which they do.
pub(super) fn leaves<'a>(house: &'a House, wanted: &Wanted) -> Vec<Leaver<'a>> {
    let all = house.running();
    let of_pool =
        |placement: &Placement, name: &str| house.pool_of(placement).is_some_and(|pool| pool.name_any() == name);
    let (wish, asked): (Wish, Vec<Running>) = match wanted {
        Wanted::Drain(node) => {
            let wish = Wish { drained: [node.clone()].into(), ..Wish::default() };
            (wish, all.iter().map(|(_, running)| running.clone()).collect())
        }
        Wanted::Limit { pool, class, most } => {
            let named = house.pools.iter().flat_map(|pool| &pool.spec.drain.nodes);
            let wish = Wish {
                limits: [(class.clone(), *most)].into(),
                drained: named.filter_map(|node| node.parse().ok()).collect(),
            };
            let mine = all.iter().filter(|(placement, _)| of_pool(placement, pool));
            (wish, mine.map(|(_, running)| running.clone()).collect())
        }
    };
    let chosen = choose(&house.me, &asked, &wish);
    let found = chosen.iter().filter_map(|chosen| all.iter().find(|(_, running)| running.copy == chosen.copy));
    let notice = |placement| house.pool_of(placement).map(|pool| Seconds(pool.spec.reclaim_notice_seconds.into()));
    found.map(|(placement, _)| Leaver { placement, notice: notice(placement) }).collect()
}

/// How many GPUs of a class work in a pool, by its status.
pub(super) fn working(pool: &GPUPool, class: &GpuClass) -> anyhow::Result<u32> {
    let classes = pool.status.as_ref().map(|status| status.classes.as_slice()).unwrap_or_default();
    let of_class = classes.iter().find(|one| one.class == class.as_str());
    let Some(figures) = of_class else {
        let known: Vec<&str> = classes.iter().map(|one| one.class.as_str()).collect();
        let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
        bail!("pool {} has no GPUs of class {class}; it has {known}", pool.name_any());
    };
    Ok(u32::try_from(figures.healthy.saturating_add(figures.degraded)).unwrap_or(0))
}

/// What a person is told before it happens.
pub(super) fn text(house: &House, leavers: &[Leaver<'_>], now: UnixSeconds) -> String {
    if leavers.is_empty() {
        return "nobody has to leave\n".to_owned();
    }
    let mut gpus = 0;
    let rows: Vec<Vec<String>> = leavers
        .iter()
        .enumerate()
        .map(|(at, leaver)| {
            let spec = &leaver.placement.spec;
            gpus += spec.gpu.count;
            let asked = Asked::of(leaver.placement).and_then(|asked| asked.at);
            let notice = leaver.notice.unwrap_or(Seconds(0));
            let own = if spec.home == house.me.as_str() { " (own)" } else { "" };
            let since = leaver.placement.creation_timestamp().map(|made| now.0 - koinon_api::time::to_unix(&made));
            vec![
                (at + 1).to_string(),
                format!("{}{own}", spec.home),
                format!("{}/{}", spec.job.namespace, spec.job.name),
                spec.replica.to_string(),
                spec.gpu.count.to_string(),
                spec.gpu.class.clone(),
                node_of(leaver.placement).map_or_else(|| "-".to_owned(), |node| node.to_string()),
                since.map_or_else(|| "-".to_owned(), age),
                age(notice.0),
                time(asked.unwrap_or(now).plus(notice)),
            ]
        })
        .collect();
    let headings = ["ORDER", "HOME", "JOB", "REPLICA", "GPUS", "CLASS", "NODE", "HELD FOR", "NOTICE", "FREE BY"];
    format!("{}{gpus} GPUs come back as {} copies leave\n", table(&headings, &rows), leavers.len())
}
