//! Registers metrics and remembers what they are.
//!
//! A registry tells only of series that exist at this moment. Alerts and dashboards name metrics that may have none yet, so
//! that a misspelt name is silent for ever; the list that is kept here is what they are held against.

use std::cell::RefCell;
use std::fmt;

use prometheus::core::Collector;
use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Only rises, until its process starts anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, with a sum and a count.
    Histogram,
}

/// A metric without its values. Prints as a line of the list of metrics: name, kind and labels, separated by tabs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels, sorted.
    pub labels: Vec<String>,
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        write!(f, "{}\t{kind}\t{}", self.name, self.labels.join(","))
    }
}

/// Makes metrics, registers them and remembers them.
#[derive(Debug)]
pub struct Registrar<'a> {
    registry: &'a Registry,
    described: RefCell<Vec<Described>>,
}

impl<'a> Registrar<'a> {
    /// One that registers in `registry`.
    #[must_use]
    pub fn new(registry: &'a Registry) -> Self {
        Self { registry, described: RefCell::default() }
    }

    /// Everything that was registered, by name.
    #[must_use]
    pub fn described(self) -> Vec<Described> {
        let mut described = self.described.into_inner();
        described.sort();
        described
    }

    /// Registers one that exists already; `kind` says what each of its metrics is, by name.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub fn keep<C: Collector + Clone + 'static>(
        &self,
        collector: C,
        kind: impl Fn(&str) -> Kind,
    ) -> Result<C, prometheus::Error> {
        self.registry.register(Box::new(collector.clone()))?;
        for desc in collector.desc() {
            let mut labels = desc.variable_labels.clone();
            labels.sort();
            let described = Described { name: desc.fq_name.clone(), kind: kind(&desc.fq_name), labels };
            self.described.borrow_mut().push(described);
        }
        Ok(collector)
    }

    /// A gauge of whole numbers.
    ///
    /// # Errors
    /// When the name is taken, as for all of these.
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.keep(IntGauge::new(name, help)?, |_| Kind::Gauge)
    }

    /// A gauge.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn float(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.keep(Gauge::new(name, help)?, |_| Kind::Gauge)
    }

    /// A counter of whole numbers.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.keep(IntCounter::new(name, help)?, |_| Kind::Counter)
    }

    /// A counter.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn float_counter(&self, name: &str, help: &str) -> Result<Counter, prometheus::Error> {
        self.keep(Counter::new(name, help)?, |_| Kind::Counter)
    }

    /// Gauges of whole numbers, by label.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels)?, |_| Kind::Gauge)
    }

    /// Gauges, by label.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn floats(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.keep(GaugeVec::new(Opts::new(name, help), labels)?, |_| Kind::Gauge)
    }

    /// Counters of whole numbers, by label.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels)?, |_| Kind::Counter)
    }

    /// A histogram with these upper bounds.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram, prometheus::Error> {
        self.keep(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?, |_| Kind::Histogram)
    }

    /// Histograms with these upper bounds, by label.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> Result<HistogramVec, prometheus::Error> {
        self.keep(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?, |_| Kind::Histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_series_yet_is_in_the_list_and_a_name_is_taken_once() {
        let registry = Registry::new();
        let registrar = Registrar::new(&registry);
        registrar.counters("koinon_tries_total", "Tries.", &["result", "part"]).unwrap();
        registrar.histogram("koinon_asking_seconds", "Asking.", vec![1.0]).unwrap();
        assert!(registrar.gauge("koinon_asking_seconds", "Asking.").is_err());
        assert!(!registry.gather().iter().any(|family| family.name() == "koinon_tries_total"));
        let lines: Vec<String> = registrar.described().iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["koinon_asking_seconds\thistogram\t", "koinon_tries_total\tcounter\tpart,result"]);
    }
}
