//! The witness in numbers, in the text format of Prometheus.

use std::fmt;

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

type Labels = Vec<(&'static str, String)>;

/// What is counted. The labels are from fixed sets: the logs that are watched, and the kinds of answers.
pub(super) struct Metrics {
    registry: Registry,
    answers: Family<Labels, Counter>,
    sizes: Family<Labels, Gauge>,
    forks: Family<Labels, Gauge>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("entrybook_witness");
        let answers = Family::<Labels, Counter>::default();
        let (sizes, forks) =
            (Family::<Labels, Gauge>::default(), Family::<Labels, Gauge>::default());
        registry.register(
            "checkpoints",
            "Checkpoints that were sent, by the answer",
            answers.clone(),
        );
        registry.register(
            "cosigned_lines",
            "Lines of the checkpoint that was cosigned last",
            sizes.clone(),
        );
        registry.register(
            "fork_kept",
            "1 where the proof of a fork of the log is kept",
            forks.clone(),
        );
        Self { registry, answers, sizes, forks }
    }

    pub(super) fn answered(&self, answer: &'static str) {
        self.answers.get_or_create(&vec![("answer", answer.to_owned())]).inc();
    }

    pub(super) fn cosigned(&self, origin: &str, size: u64) {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        self.sizes.get_or_create(&vec![("origin", origin.to_owned())]).set(size);
    }

    pub(super) fn fork(&self, origin: &str, is_kept: bool) {
        self.forks.get_or_create(&vec![("origin", origin.to_owned())]).set(i64::from(is_kept));
    }

    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
