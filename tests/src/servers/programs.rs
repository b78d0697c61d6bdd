//! Where the programs of the local servers are, and what to install when they are not.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The directory with Kafka's jars, Java and flags. `scripts/servers fetch` makes it on the first call ever.
pub(super) fn kafka_home() -> Result<&'static Path> {
    static HOME: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match HOME.get_or_init(|| fetch_kafka().map_err(|error| format!("{error:#}"))) {
        Ok(home) => Ok(home),
        Err(error) => bail!("no Kafka for tests: {error}"),
    }
}

fn fetch_kafka() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/servers");
    let output = Command::new(&script)
        .arg("fetch")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", script.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim());
    let home =
        String::from_utf8(output.stdout).context("the cache directory's name is not UTF-8")?;
    Ok(PathBuf::from(home.trim_end()))
}

/// The directory with PostgreSQL's server programs: `TIDEGATE_POSTGRES_BIN`, or the newest of the distribution's.
pub(super) fn postgres_bin() -> Result<PathBuf> {
    let told = std::env::var_os("TIDEGATE_POSTGRES_BIN").map(PathBuf::from);
    let found = told.or_else(newest_postgres).filter(|bin| bin.join("initdb").exists());
    found.context(
        "no PostgreSQL for tests: install the package `postgresql` (its server programs are looked for in \
         /usr/lib/postgresql/*/bin), or say where `initdb` is by TIDEGATE_POSTGRES_BIN",
    )
}

fn newest_postgres() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions
        .map(|entry| entry.path())
        .filter(|path| version(path).is_some())
        .max_by_key(version);
    Some(newest?.join("bin"))
}

/// PostgreSQL refuses to run as root. The numbers of its own user when we are root, nothing otherwise.
pub(super) fn postgres_user() -> Result<Option<(u32, u32)>> {
    if number(&["-u"])? != 0 {
        return Ok(None);
    }
    let missing = "PostgreSQL does not run as root, and there is no user `postgres` to run it as";
    Ok(Some((
        number(&["-u", "postgres"]).context(missing)?,
        number(&["-g", "postgres"]).context(missing)?,
    )))
}

fn number(flags: &[&str]) -> Result<u32> {
    let output = Command::new("id").args(flags).output().context("run id")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}
