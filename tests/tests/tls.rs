//! PostgreSQL over TLS: who is believed, and what is said of who is not. Kafka's side is in `bad_input.rs`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tidegate::Handle;
use tidegate::prelude::*;
use tidegate::record::PartitionId;
use tidegate::testing::MemoryBroker;
use tidegate_postgres::{Postgres as Database, Table};
use tidegate_tests::fleet::until;
use tidegate_tests::servers::{Certificates, Postgres, PostgresOptions, unique};

/// What anything here may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Gives a running server a certificate.
async fn secure(url: &str, certificates: &Certificates) -> Result<()> {
    let mut database = PgConnection::connect(url).await?;
    let dir: String = sqlx::query_scalar("show data_directory").fetch_one(&mut database).await?;
    for (name, pem) in [("server.crt", &certificates.chain), ("server.key", &certificates.key)] {
        // Written by the server itself: nobody else may read its key.
        let write = format!(
            "copy (select unnest(string_to_array('{pem}', E'\\n'))) \
             to program 'umask 077; cat > {dir}/{name}'"
        );
        sqlx::raw_sql(AssertSqlSafe(write)).execute(&mut database).await.context(name)?;
    }
    sqlx::raw_sql("alter system set ssl = on").execute(&mut database).await?;
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut database).await?;
    until("the server to speak TLS", SOON, async || {
        let on: String = sqlx::query_scalar("show ssl").fetch_one(&mut database).await?;
        Ok(on == "on")
    })
    .await
}

async fn start(url: &str) -> Result<Handle, tidegate::Error> {
    let broker = MemoryBroker::new();
    broker.create_topic("in", 1);
    for value in ["a", "b", "c"] {
        broker.produce(&PartitionId::new("in", 0), None, Some(value.as_bytes()));
    }
    let letters = Table::new("public.letters").text("letter", |letter: &String| letter);
    Pipeline::new(unique("tls"))
        .from(broker.source(&["in"]))
        .decode(Utf8)
        .map(|record| record.value.clone())
        .start_max(Duration::from_secs(30))
        .exactly_once(Database::connect(url).into(letters))
        .start()
        .await
}

#[tokio::test]
async fn a_certificate_is_verified_and_one_of_a_stranger_is_refused_at_once_by_name() -> Result<()>
{
    let postgres = Postgres::start(PostgresOptions::new()).await?;
    let url = postgres.new_database().await?;
    let mut database = PgConnection::connect(&url).await?;
    sqlx::raw_sql("create table public.letters (letter text)").execute(&mut database).await?;
    let (certificates, others) = (Certificates::new()?, Certificates::new()?);
    let dir = tempfile::tempdir()?;
    let file = |name: &str, pem: &str| -> Result<String> {
        let path = dir.path().join(name);
        std::fs::write(&path, pem)?;
        Ok(path.display().to_string())
    };
    let authority = file("authority.pem", &certificates.authority)?;
    let stranger = file("stranger.pem", &others.authority)?;
    let verified = |authority: &str| format!("{url}?sslmode=verify-full&sslrootcert={authority}");

    // Not while the server speaks plain text only: nothing is sent to it then.
    let error = start(&verified(&authority)).await.expect_err("there is no TLS");
    ensure!(error.to_string().contains("TLS"), "{error}");

    secure(&url, &certificates).await?;
    for (url, says) in [
        (verified(&stranger), "certificate"),
        // Trusting the system's authorities alone.
        (format!("{url}?sslmode=verify-full"), "certificate"),
        (verified(&format!("{authority}.missing")), "is missing"),
    ] {
        let begun = std::time::Instant::now();
        let error = start(&url).await.expect_err("it must not be believed");
        let text = format!("{error} {error:?}");
        ensure!(text.contains(says) && text.contains("sslrootcert"), "{text}");
        ensure!(!error.is_deadline(), "waiting does not mend it: {text} {:?}", begun.elapsed());
        ensure!(!text.contains(":tidegate@"), "the password is in {text}");
    }
    let handle = start(&verified(&authority)).await?;
    until("three rows", SOON, async || Ok(handle.status().await?.totals.committed_records == 3))
        .await?;
    let open = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) \
                where application_name like 'tidegate/%' and ssl";
    let open: i64 = sqlx::query_scalar(open).fetch_one(&mut database).await?;
    ensure!(open > 0, "the pipeline's session is in plain text");
    handle.stop(Duration::from_secs(10)).await?;
    let rows: i64 =
        sqlx::query_scalar("select count(*) from letters").fetch_one(&mut database).await?;
    ensure!(rows == 3, "{rows} rows");
    Ok(())
}
