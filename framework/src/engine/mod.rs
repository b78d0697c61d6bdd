//! The engine: a pure core and the one loop that acts for it.

pub(crate) mod observe;
pub(crate) mod work;
