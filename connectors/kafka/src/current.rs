//! The consumer that a source uses now: its thread may replace one that librdkafka gave up.

use std::sync::{Arc, Mutex, PoisonError};

use crate::context::Consumer;

/// What those outside the thread ask for the consumer each time they need it.
#[derive(Clone)]
pub(crate) struct Current(Arc<Mutex<Arc<Consumer>>>);

impl Current {
    pub(crate) fn new(consumer: Arc<Consumer>) -> Self {
        Self(Arc::new(Mutex::new(consumer)))
    }

    pub(crate) fn get(&self) -> Arc<Consumer> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set(&self, consumer: Arc<Consumer>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = consumer;
    }
}
