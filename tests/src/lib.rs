//! What Tidegate's tests on real servers share. [`servers`] starts Kafka and PostgreSQL.

#![forbid(unsafe_code)]

pub mod servers;
