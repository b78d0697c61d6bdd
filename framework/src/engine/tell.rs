//! Turns what the core tells into logs, metrics and calls of the observer.

use std::sync::Arc;
use std::time::Duration;

use super::core::{CoreStatus, Totals};
use super::handle::Summary;
use super::observe::{EngineEvent, Observer};
use crate::delivery::Guarantee;
use crate::error::Error;
use crate::metrics::{self, InFlight, Meter, Rebalance, Standing, Stored};
use crate::source::Health;

/// The engine's voice.
pub(super) struct Teller {
    observer: Option<Arc<dyn Observer>>,
    meter: Meter,
    last: Totals,
}

impl Teller {
    pub(super) fn new(
        pipeline: &str,
        observer: Option<Arc<dyn Observer>>,
        sink: &str,
        guarantee: Guarantee,
    ) -> Self {
        metrics::describe();
        let meter = Meter::new(pipeline);
        meter.guarantee(sink, guarantee);
        tracing::info!(pipeline, sink, guarantee = guarantee.as_str(), "started");
        Self { observer, meter, last: Totals::default() }
    }

    pub(super) fn tell(&self, event: &EngineEvent) {
        log(event);
        self.measure(event);
        if let Some(observer) = &self.observer {
            observer.observe(event);
        }
    }

    fn measure(&self, event: &EngineEvent) {
        match event {
            EngineEvent::CommitEnded { fate, took, records, .. } => {
                self.meter.commit_ended(fate, *records, *took);
            }
            EngineEvent::DeadLettered { reason, .. } => self.meter.dead_lettered(*reason, 1),
            EngineEvent::Skipped { by, .. } => self.meter.skipped(by, 1),
            EngineEvent::Dropped { records, .. } => self.meter.replayed(*records),
            _ => {}
        }
    }

    /// Counters grow by what was counted since the last step: per batch, never per record.
    pub(super) fn totals(&mut self, now: &Totals) {
        let last = std::mem::replace(&mut self.last, *now);
        let grown = |now: u64, last: u64| usize::try_from(now - last).unwrap_or(usize::MAX);
        if now.records_in != last.records_in {
            self.meter.delivered(grown(now.records_in, last.records_in));
        }
        if now.committed_records != last.committed_records {
            self.meter.stored(Stored {
                records: grown(now.committed_records, last.committed_records),
                outputs: grown(now.committed_outputs, last.committed_outputs),
                filtered: grown(now.committed_filtered, last.committed_filtered),
            });
        }
        if now.retries != last.retries {
            self.meter.retried(grown(now.retries, last.retries));
        }
        if now.given_up != last.given_up {
            self.meter.given_up(grown(now.given_up, last.given_up));
        }
    }

    /// A group event was answered this long after it arrived.
    pub(super) fn rebalanced(&self, side: Rebalance, took: Duration) {
        self.meter.rebalanced(side, took);
    }

    /// Gauges, once a second.
    pub(super) fn status(&self, status: &CoreStatus, busy: usize, workers: usize) {
        let partitions = &status.partitions;
        let ages = partitions.iter().filter_map(|p| p.holder.as_ref()).map(|holder| holder.age);
        self.meter.in_flight(InFlight {
            records: partitions.iter().map(|p| p.in_flight_records).sum(),
            bytes: partitions.iter().map(|p| p.in_flight_bytes).sum(),
            oldest: ages.max().unwrap_or_default(),
            stuck: status.stuck,
            busy,
            workers,
        });
        for partition in partitions {
            let standing = Standing {
                committed: partition.committed,
                contiguous: partition.contiguous,
                end: partition.end,
                lag: partition.lag,
            };
            self.meter.partition(&partition.partition, standing);
        }
    }

    pub(super) fn health(&self, before: &Health, now: &Health) {
        match now {
            Health::Ready if before == now => {}
            Health::Ready => tracing::info!("source is ready"),
            Health::Waiting(what) => tracing::warn!(what, "source waits"),
        }
    }

    pub(super) fn ended(
        &self,
        result: &Result<(), Error>,
        summary: &Summary,
        stuck: usize,
        left: bool,
        closed: bool,
    ) {
        if stuck > 0 {
            tracing::warn!(threads = stuck, "functions that did not return are left behind");
        }
        if !left {
            tracing::warn!("the group was not left in time, the broker will notice by itself");
        }
        if !closed {
            tracing::warn!("the sink did not close in time, its last call is left behind");
        }
        match result {
            Ok(()) => tracing::info!(%summary, "stopped"),
            Err(error) => tracing::error!(%error, %summary, "ended"),
        }
    }
}

fn log(event: &EngineEvent) {
    match event {
        EngineEvent::Assigned { partitions } => tracing::info!(?partitions, "assigned"),
        EngineEvent::Revoked { partitions } => tracing::info!(?partitions, "revoked"),
        EngineEvent::HandedBack { partitions } => tracing::info!(?partitions, "handed back"),
        EngineEvent::Lost { partitions } => tracing::warn!(?partitions, "lost"),
        EngineEvent::Claimed { partition, epoch, stored } => {
            tracing::debug!(%partition, epoch = epoch.get(), ?stored, "claimed");
        }
        EngineEvent::Started { partition, epoch, offset } => {
            tracing::info!(%partition, epoch = epoch.get(), %offset, "started");
        }
        EngineEvent::PartitionFailed { partition, error } => {
            tracing::error!(%partition, error, "partition stopped, the others go on");
        }
        EngineEvent::Cut { records, .. } => tracing::trace!(records, "cut"),
        EngineEvent::CommitEnded { fate: "committed", records, took, .. } => {
            tracing::trace!(records, ?took, "committed");
        }
        EngineEvent::CommitEnded { fate, detail, records, took, .. } => {
            tracing::warn!(fate, detail, records, ?took, "commit not stored");
        }
        EngineEvent::DoubtResolved { spans, stored } => {
            tracing::info!(partitions = spans.len(), stored, "doubt resolved");
        }
        EngineEvent::Repositioned { partition, next } => {
            tracing::info!(%partition, %next, "position stored");
        }
        EngineEvent::Retrying { record, attempts, wait, error } => {
            tracing::debug!(%record, attempts, ?wait, error, "failed, will be tried again");
        }
        EngineEvent::DeadLettered { record, reason, error } => {
            tracing::warn!(%record, reason = reason.as_str(), error, "dead letter");
        }
        EngineEvent::Skipped { record, by, error } => {
            tracing::warn!(%record, by, error, "skipped");
        }
        EngineEvent::Stuck { record, age } => {
            tracing::warn!(%record, ?age, "record holds its partition back");
        }
        EngineEvent::Dropped { partition, epoch, records, why } => {
            tracing::info!(%partition, epoch = epoch.get(), records, why, "work dropped");
        }
        EngineEvent::Stopping { why } => tracing::info!(why, "stopping"),
    }
}
