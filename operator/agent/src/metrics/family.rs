//! Samples as values, and how they become what a registry gathers.

use std::collections::{BTreeMap, HashMap};

use koinon_telemetry::Kind;
use prometheus::core::Desc;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// A label's value is cut here. The longest honest one is a product's name, of at most 95 bytes.
const MAX_VALUE: usize = 128;

/// A metric and its labels.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family {
    /// Its name, with its unit.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// The names of its labels, in the order of their values in a [`Sample`].
    pub labels: &'static [&'static str],
    /// For people.
    pub help: &'static str,
}

/// One value of one series. Labels whose value is empty are left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Of what.
    pub family: &'static Family,
    /// In the order of the family's labels; readable and bounded.
    pub labels: Vec<String>,
    /// The value in the unit that the name says.
    pub value: f64,
}

impl Sample {
    /// Makes any text fit for a label: a driver's answer may be anything.
    pub fn new(family: &'static Family, labels: &[&str], value: f64) -> Self {
        Self { family, labels: labels.iter().map(|text| label(text)).collect(), value }
    }
}

fn label(text: &str) -> String {
    text.chars().take(MAX_VALUE).map(|one| if matches!(one, ' '..='~') { one } else { '?' }).collect()
}

/// What registering the family needs.
pub fn desc(family: &Family) -> Result<Desc, prometheus::Error> {
    let labels = family.labels.iter().map(|&label| label.to_owned()).collect();
    Desc::new(family.name.to_owned(), family.help.to_owned(), labels, HashMap::new())
}

/// Samples by family. Of two for one series the first counts: a scrape with both would be refused as a whole.
pub fn gathered(samples: impl IntoIterator<Item = Sample>) -> Vec<MetricFamily> {
    let mut families: BTreeMap<&'static Family, BTreeMap<Vec<String>, f64>> = BTreeMap::new();
    for Sample { family, labels, value } in samples {
        families.entry(family).or_default().entry(labels).or_insert(value);
    }
    families.into_iter().map(|(family, series)| gathered_family(family, series)).collect()
}

fn gathered_family(family: &Family, series: BTreeMap<Vec<String>, f64>) -> MetricFamily {
    let mut gathered = MetricFamily::default();
    gathered.set_name(family.name.to_owned());
    gathered.set_help(family.help.to_owned());
    gathered.set_field_type(match family.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge | Kind::Histogram => MetricType::GAUGE,
    });
    let metrics = series.into_iter().map(|(values, value)| {
        let pairs = family.labels.iter().zip(values).filter(|(_, text)| !text.is_empty()).map(|(name, text)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(text);
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        match family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        metric
    });
    gathered.set_metric(metrics.collect());
    gathered
}
