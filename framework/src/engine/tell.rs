//! Turns what the core tells into logs, metrics and calls of the observer.

use std::sync::Arc;

use super::core::{CoreStatus, Totals};
use super::handle::Summary;
use super::observe::{EngineEvent, Observer};
use crate::delivery::Guarantee;
use crate::error::Error;
use crate::metrics;
use crate::source::Health;

/// The engine's voice.
pub(super) struct Teller {
    observer: Option<Arc<dyn Observer>>,
    last: Totals,
}

impl Teller {
    pub(super) fn new(
        pipeline: &str,
        observer: Option<Arc<dyn Observer>>,
        guarantee: Guarantee,
    ) -> Self {
        tracing::info!(pipeline, ?guarantee, "started");
        Self { observer, last: Totals::default() }
    }

    pub(super) fn tell(&self, event: &EngineEvent) {
        log(event);
        measure(event);
        if let Some(observer) = &self.observer {
            observer.observe(event);
        }
    }

    /// Counters grow by what was counted since the last step: per batch, never per record.
    pub(super) fn totals(&mut self, totals: &Totals) {
        if *totals != self.last {
            metrics::totals(&self.last, totals);
            self.last = *totals;
        }
    }

    /// Gauges, once a second.
    pub(super) fn status(&self, status: &CoreStatus) {
        metrics::status(&status.partitions);
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
            tracing::warn!(%record, reason, error, "dead letter");
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

fn measure(event: &EngineEvent) {
    match event {
        EngineEvent::CommitEnded { fate, took, records, .. } => {
            metrics::commit(fate, *took, *records);
        }
        EngineEvent::Assigned { .. } | EngineEvent::Revoked { .. } | EngineEvent::Lost { .. } => {
            metrics::rebalance();
        }
        _ => {}
    }
}
