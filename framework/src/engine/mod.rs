//! The engine.

pub(crate) mod core;
pub(crate) mod observe;
pub(crate) mod work;
