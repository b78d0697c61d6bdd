//! Where servers come from.

use anyhow::{Result, bail};
use tokio::sync::OnceCell;

/// Who starts a server that a test wants for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Nobody: only the servers that the environment names may be used. A test that needs one of its own fails.
    External,
    /// A container engine.
    Containers,
    /// This machine, with Kafka from Maven's artifacts and PostgreSQL from the distribution.
    Local,
}

impl Provider {
    /// What `TIDEGATE_SERVERS` says (`external`, `containers`, `local`); for `auto` or nothing, containers where
    /// an engine answers and has both images, and local processes otherwise.
    ///
    /// # Errors
    /// When it says something else, or asks for containers that cannot be had.
    pub async fn choose() -> Result<Self> {
        static CHOSEN: OnceCell<Provider> = OnceCell::const_new();
        CHOSEN.get_or_try_init(decide).await.copied()
    }
}

async fn decide() -> Result<Provider> {
    let told = std::env::var("TIDEGATE_SERVERS").unwrap_or_default();
    match told.as_str() {
        "external" => Ok(Provider::External),
        "local" => Ok(Provider::Local),
        "containers" => match containers_missing().await {
            None => Ok(Provider::Containers),
            Some(reason) => bail!("TIDEGATE_SERVERS=containers: {reason}"),
        },
        "" | "auto" => match containers_missing().await {
            None => Ok(Provider::Containers),
            Some(reason) => {
                eprintln!("servers: local processes ({reason})");
                Ok(Provider::Local)
            }
        },
        other => bail!("TIDEGATE_SERVERS={other}: say external, containers, local or auto"),
    }
}

#[cfg(feature = "containers")]
async fn containers_missing() -> Option<String> {
    super::containers::missing().await
}

#[cfg(not(feature = "containers"))]
async fn containers_missing() -> Option<String> {
    Some("the tests were built without the feature `containers`".into())
}
