//! Devices as text.

use koinon_api::gpu_node::{AllocationState, Device, MigMode, Sharing};
use koinon_api::{GPUOffer, time};
use koinon_core::gpu::health::{BOUNDS, Limits};
use koinon_core::ids::{MemberId, UnixSeconds};

use super::obstacles::holders;
use super::{Row, ago};
use crate::output::{age, one_line, or_dash, table as rows_under};

/// One line a device.
pub(super) fn table(rows: &[Row], now: UnixSeconds) -> String {
    let lines: Vec<Vec<String>> = rows.iter().map(|row| line(row, now)).collect();
    let headings = ["NODE", "GPU", "CLASS", "STATE", "REASON", "HELD BY", "SINCE", "SHARED"];
    format!("{}{}", rows_under(&headings, &lines), summary(rows))
}

/// One longer line a device.
pub(super) fn wide(rows: &[Row], now: UnixSeconds) -> String {
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let device = &row.device;
            let mut cells = line(row, now);
            cells.extend([
                device.uuid.clone(),
                or_dash(device.pci_bus_id.clone()),
                or_dash(device.product.clone().map(one_line)),
                or_dash(device.memory.as_ref().map(|memory| format!("{} GiB", memory.total_bytes >> 30))),
                or_dash(row.driver.clone()),
                or_dash(row.pool.clone()),
                or_dash(device.sharing.map(sharing)),
                or_dash(device.health.action.map(|action| format!("{action:?}"))),
                xids(device),
            ]);
            cells
        })
        .collect();
    let headings = [
        "NODE", "GPU", "CLASS", "STATE", "REASON", "HELD BY", "SINCE", "SHARED", "UUID", "BUS", "PRODUCT", "MEMORY",
        "DRIVER", "POOL", "SHARING", "ACTION", "XIDS",
    ];
    format!("{}{}", rows_under(&headings, &lines), summary(rows))
}

/// A paragraph a device that is not shared.
pub(super) fn why(rows: &[Row], now: UnixSeconds) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| !row.shared) {
        let device = &row.device;
        let since =
            ago(now, device.health.since_time.as_ref()).map(|ago| format!(" for {}", age(ago))).unwrap_or_default();
        text.push_str(&format!(
            "{} GPU {} ({}, {}): {:?}{since}\n",
            row.node,
            device.index,
            or_dash(device.class.clone()),
            device.uuid,
            device.health.state
        ));
        for obstacle in &row.obstacles {
            text.push_str(&format!("  - {}\n    to do: {}\n", one_line(&obstacle.what), one_line(&obstacle.remedy)));
        }
        text.push_str(&judged_by(row));
    }
    text.push_str(&summary(rows));
    text
}

/// What its owner and the cooperative have set by which a device is judged.
fn judged_by(row: &Row) -> String {
    let rules = Limits::default();
    let limit = |(name, here): (&String, &i64)| {
        let of_rule = BOUNDS.iter().find(|bound| bound.name == name).map(|bound| (bound.rule, bound.of(&rules)));
        of_rule.map_or_else(
            || format!("{} {here}", one_line(name)),
            |(rule, usual)| format!("{name} {here} ({usual} by the rules, {rule})"),
        )
    };
    let limits: Vec<String> = row.limits.iter().map(limit).collect();
    let limits =
        if limits.is_empty() { String::new() } else { format!("  limits of its owner: {}\n", limits.join(", ")) };
    let table = row.xid_table.as_ref().map(|digest| format!("  voted table of XIDs: {}\n", one_line(digest)));
    limits + &table.unwrap_or_default()
}

fn summary(rows: &[Row]) -> String {
    let shared = rows.iter().filter(|row| row.shared).count();
    let rest = rows.len() - shared;
    let hint =
        if rest == 0 { String::new() } else { format!("; what keeps the other {rest}: kubectl koinon gpus --why") };
    format!("{shared} of {} could be given to others now{hint}\n", rows.len())
}

fn line(row: &Row, now: UnixSeconds) -> Vec<String> {
    let device = &row.device;
    let shared = match row.obstacles.first() {
        None => "yes".to_owned(),
        Some(_) => "no".to_owned(),
    };
    vec![
        row.node.clone(),
        place(device),
        or_dash(device.class.clone()),
        format!("{:?}", device.health.state),
        or_dash((!device.health.reasons.is_empty()).then(|| device.health.reasons.join(","))),
        held(device),
        or_dash(ago(now, device.health.since_time.as_ref()).map(age)),
        shared,
    ]
}

/// The place of a device on its node; of an instance, the numbers within its parent as well.
fn place(device: &Device) -> String {
    let mig = device.mig.as_ref().filter(|mig| mig.mode == MigMode::Instance);
    match mig.and_then(|mig| mig.gpu_instance.zip(mig.compute_instance)) {
        Some((gpu, compute)) => format!("{}/{gpu}/{compute}", device.index),
        None => device.index.to_string(),
    }
}

fn held(device: &Device) -> String {
    match device.allocation.as_ref().map(|allocation| allocation.state) {
        Some(AllocationState::Held) => holders(device),
        Some(AllocationState::Free) => "-".to_owned(),
        Some(state) => format!("({state:?})"),
        None => "(Unknown)".to_owned(),
    }
}

/// How many may be on a device, as its kubelet gives it out.
fn sharing(sharing: Sharing) -> String {
    match sharing.replicas {
        Some(replicas) => format!("{:?}×{replicas}", sharing.mode),
        None => format!("{:?}", sharing.mode),
    }
}

fn xids(device: &Device) -> String {
    let told: Vec<String> = device.xids.iter().map(|xid| format!("{}×{}", xid.code, xid.count)).collect();
    or_dash((!told.is_empty()).then(|| told.join(",")))
}

/// What a member offers.
pub(super) fn offer(member: &MemberId, offer: &GPUOffer, now: UnixSeconds) -> String {
    let status = offer.status.clone().unwrap_or_default();
    let stale = status.not_after_time.as_ref().is_none_or(|end| time::to_unix(end) <= now.0);
    let lines: Vec<Vec<String>> = status
        .classes
        .iter()
        .map(|class| {
            vec![
                class.class.clone(),
                one_line(&class.product),
                format!("{} GiB", class.memory_bytes >> 30),
                if stale { "0".to_owned() } else { class.offered.to_string() },
                class.largest_block.to_string(),
                or_dash(class.largest_node),
                format!("{:?}", class.evidence),
            ]
        })
        .collect();
    let headings = ["CLASS", "PRODUCT", "MEMORY", "OFFERED", "ON ONE NODE", "LARGEST NODE", "EVIDENCE"];
    let heard =
        ago(now, status.as_of_time.as_ref()).map_or_else(|| "never".to_owned(), |ago| format!("{} ago", age(ago)));
    let verdict = if stale { "; that is past its time, so it offers nothing" } else { "" };
    format!(
        "{}{member} said so {heard}{verdict}. Which devices these are only its owner sees.\n",
        rows_under(&headings, &lines)
    )
}
