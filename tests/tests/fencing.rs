//! Single faults, staged: each schedule that once cost somebody data, on real servers, with signals.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use sqlx::{Connection, PgConnection, SqliteConnection};
use tidegate_tests::audit::{DeadValues, Rules};
use tidegate_tests::fleet::staged::{
    SOON, commit_in_flight, commits, copier, feed, finish, finish_by, rules, slow, stop_when_done,
};
use tidegate_tests::fleet::{
    Copier, Mix, Orders, Planned, Progress, Scene, Store, generate, until,
};
use tidegate_tests::readers::{open_transactions, read_ends};
use tidegate_tests::servers::{
    self, Kafka, KafkaOptions, Postgres, PostgresOptions, Shared, unique,
};

const COPIER: &str = env!("CARGO_BIN_EXE_copier");
const PARTITIONS: i32 = 4;
/// How long a member is made silent: longer than its session.
const FROZEN: Duration = Duration::from_millis(4500);

const STORES: [&str; 3] = ["kafka", "postgres", "sqlite"];

async fn scene_on(kafka: &Kafka, postgres: &Postgres, store: &str, input: &str) -> Result<Scene> {
    let store = match store {
        "kafka" => Store::topic(kafka, PARTITIONS).await?,
        "postgres" => Store::database(postgres).await?,
        _ => return Scene::with_file(COPIER, kafka, input),
    };
    Scene::on(COPIER, kafka, store, input)
}

/// A scene with a new input topic.
async fn scene_with(kafka: &Kafka, postgres: &Postgres, store: &str) -> Result<Scene> {
    let input = unique("input");
    kafka.create_topic(&input, PARTITIONS, &[]).await?;
    scene_on(kafka, postgres, store, &input).await
}

/// A scene on the shared servers, with all its input.
async fn scene(shared: Shared, store: &str, records: Vec<Planned>) -> Result<Scene> {
    let scene = scene_with(shared.kafka, shared.postgres, store).await?;
    scene.feed(records).await?;
    Ok(scene)
}

#[tokio::test]
async fn a_member_frozen_past_its_session_shows_nothing_when_it_goes_on() -> Result<()> {
    let shared = servers::shared().await?;
    try_join_all(STORES.map(async |store| zombie(shared, store).await.context(store))).await?;
    Ok(())
}

async fn zombie(shared: Shared, store: &str) -> Result<()> {
    let scene = scene_with(shared.kafka, shared.postgres, store).await?;
    let feed = feed(&scene, 1, PARTITIONS);
    let (mut first, mut second) = (slow(copier(&scene, "zombie")), slow(copier(&scene, "heir")));
    let mut zombie = first.start()?;
    commits(&mut zombie, &first, 3).await?;
    stop_between_commits(&scene, &mut zombie).await?;
    let frozen = tokio::time::Instant::now();
    let mut heir = second.start()?;
    tokio::time::sleep_until(frozen + FROZEN).await;
    commits(&mut heir, &second, 1).await.context("the heir waits for the zombie")?;
    zombie.signal("CONT")?;
    // It goes on with what it had, beside its heir.
    commits(&mut heir, &second, second.committed()? + 5).await?;
    feed.end().await?;
    finish(&scene, vec![zombie, heir]).await?;
    // Kafka's zombie may not have noticed before the group told it; the stores of SQL tell it themselves.
    let noticed = first.trail_so_far()?;
    ensure!(noticed.count("lost") + noticed.fates("fenced") > 0, "the zombie noticed nothing");
    scene.passed();
    Ok(())
}

/// Stops it. Inside a commit to a file it would keep every other writer out, as GUARANTEES says: then it goes on a little.
async fn stop_between_commits(scene: &Scene, copier: &mut Copier) -> Result<()> {
    loop {
        copier.signal("STOP")?;
        let Store::Sqlite(path) = &scene.store else { return Ok(()) };
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(Duration::from_millis(500));
        let mut writer = SqliteConnection::connect_with(&options).await?;
        let free = sqlx::raw_sql("begin immediate; rollback").execute(&mut writer).await.is_ok();
        writer.close().await?;
        if free {
            return Ok(());
        }
        copier.signal("CONT")?;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[tokio::test]
async fn a_copier_killed_between_cut_and_commit_leaves_all_or_nothing() -> Result<()> {
    tokio::try_join!(killed_at_postgres(), killed_at_sqlite(), killed_at_kafka())?;
    Ok(())
}

/// The database is stopped while it commits: when it goes on, it may find the `COMMIT` of a dead process in its socket.
async fn killed_at_postgres() -> Result<()> {
    let (kafka, postgres) =
        (Kafka::shared().await?, Postgres::start(PostgresOptions::new()).await?);
    let scene = scene_with(kafka, &postgres, "postgres").await?;
    let feed = feed(&scene, 2, PARTITIONS);
    let mut orders = slow(copier(&scene, "killed")).flag("--instance", "killed");
    for _ in 0..3 {
        let before = orders.committed()?;
        let mut killed = orders.start()?;
        commits(&mut killed, &orders, before + 2).await?;
        postgres.pause().await?;
        commit_in_flight(&mut killed, &orders).await?;
        killed.kill().await?;
        postgres.resume().await?;
    }
    feed.end().await?;
    let last = orders.start()?;
    finish(&scene, vec![last]).await.context("postgres")?;
    scene.passed();
    Ok(())
}

/// Another writer holds the file while the copier is to commit.
async fn killed_at_sqlite() -> Result<()> {
    let shared = servers::shared().await?;
    let scene = scene_with(shared.kafka, shared.postgres, "sqlite").await?;
    let feed = feed(&scene, 3, PARTITIONS);
    let Store::Sqlite(path) = scene.store.clone() else { unreachable!("asked for") };
    let mut orders = slow(copier(&scene, "killed")).flag("--instance", "killed");
    for _ in 0..3 {
        let before = orders.committed()?;
        let mut killed = orders.start()?;
        commits(&mut killed, &orders, before + 2).await?;
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(&path)
            .busy_timeout(Duration::from_secs(20));
        let mut writer = SqliteConnection::connect_with(&options).await?;
        sqlx::raw_sql("begin immediate").execute(&mut writer).await?;
        commit_in_flight(&mut killed, &orders).await?;
        killed.kill().await?;
        sqlx::raw_sql("rollback").execute(&mut writer).await?;
        writer.close().await?;
    }
    feed.end().await?;
    let last = orders.start()?;
    finish(&scene, vec![last]).await.context("sqlite")?;
    scene.passed();
    Ok(())
}

/// The broker is stopped while it commits: what the copier sent before its death, it does after it. The transaction
/// stays open, and its time-out is far away: only the next one of the same name can end it.
async fn killed_at_kafka() -> Result<()> {
    let kafka = Kafka::start(KafkaOptions::new()).await?;
    let store = Store::topic(&kafka, PARTITIONS).await?;
    let scene = Scene::new(COPIER, &kafka, store, PARTITIONS).await?;
    let feed = feed(&scene, 4, PARTITIONS);
    let Store::Kafka(output) = scene.store.clone() else { unreachable!("asked for") };
    let mut orders = slow(copier(&scene, "killed"))
        .flag("--instance", "killed")
        .flag("--transaction-timeout-ms", "600000");
    let mut open = 0;
    for _ in 0..8 {
        let before = orders.committed()?;
        let mut killed = orders.start()?;
        // Behind an open transaction this waits for nobody but itself.
        commits(&mut killed, &orders, before + 2).await.context("behind an open transaction")?;
        kafka.pause().await?;
        commit_in_flight(&mut killed, &orders).await?;
        killed.kill().await?;
        kafka.resume().await?;
        kafka.ready().await?;
        open += usize::from(open_transactions(&kafka.client(), &output).await?);
        if open == 2 {
            break;
        }
    }
    ensure!(open > 0, "no transaction was left open");
    feed.end().await?;
    let last = orders.start()?;
    finish(&scene, vec![last]).await.context("kafka")?;
    scene.passed();
    Ok(())
}

#[tokio::test]
async fn an_heir_ends_the_backend_of_a_writer_stopped_inside_its_transaction() -> Result<()> {
    let shared = servers::shared().await?;
    let scene = scene(shared, "postgres", generate(5, 150_000, 1, Mix::PLAIN)).await?;
    let Store::Postgres(url) = scene.store.clone() else { unreachable!("asked for") };
    // Batches too large for one statement: only then is a transaction open between two of them.
    let large = |orders: Orders| {
        orders
            .flag("--commit-interval-ms", "4000")
            .flag("--commit-records", "30000")
            .flag("--in-flight", "60000")
    };
    let (mut first, mut second) = (large(copier(&scene, "stopped")), large(copier(&scene, "heir")));
    let mut stopped = first.start()?;
    until("the claim", SOON, async || Ok(first.trail_so_far()?.count("start") > 0)).await?;
    let mut looker = PgConnection::connect(&url).await?;
    let mut pid = stop_inside_its_transaction(&url, &mut stopped, &first).await?;
    for _ in 0..4 {
        if pid.is_some() {
            break;
        }
        // That batch was one statement; the next one has what gathered meanwhile.
        stopped.signal("CONT")?;
        pid = stop_inside_its_transaction(&url, &mut stopped, &first).await?;
    }
    let pid = pid.context("no transaction of several statements was caught")?;
    let mut heir = second.start()?;
    commits(&mut heir, &second, 1).await.context("behind a stopped transaction")?;
    let left: Option<String> =
        sqlx::query_scalar(STATE).bind(pid).fetch_optional(&mut looker).await?;
    ensure!(left.is_none(), "the heir went on although the backend is {left:?}");
    stopped.signal("CONT")?;
    finish(&scene, vec![stopped, heir]).await?;
    scene.passed();
    Ok(())
}

/// What a backend does.
const STATE: &str = "select state from pg_stat_activity where pid = $1";

/// Stops a copier when its compare, the last statement, waits for its row: its results are written by then. Answers
/// the backend, if that then waits for more from its client.
async fn stop_inside_its_transaction(
    url: &str,
    copier: &mut Copier,
    orders: &Orders,
) -> Result<Option<i32>> {
    let mut holder = PgConnection::connect(url).await?;
    sqlx::raw_sql("begin; select from tidegate.progress for update").execute(&mut holder).await?;
    commit_in_flight(copier, orders).await?;
    let mut looker = PgConnection::connect(url).await?;
    let waiting = "select pid from pg_stat_activity where datname = current_database() \
                   and wait_event_type = 'Lock'";
    let mut pid = None;
    until("the compare to wait", SOON, async || {
        pid = sqlx::query_scalar::<_, i32>(waiting).fetch_optional(&mut looker).await?;
        Ok(pid.is_some())
    })
    .await?;
    copier.signal("STOP")?;
    sqlx::raw_sql("rollback").execute(&mut holder).await?;
    for _ in 0..20 {
        let state: Option<String> =
            sqlx::query_scalar(STATE).bind(pid).fetch_optional(&mut looker).await?;
        if state.is_some_and(|state| state == "idle in transaction") {
            return Ok(pid);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(None)
}

#[tokio::test]
async fn a_database_killed_during_a_commit_leaves_no_doubt() -> Result<()> {
    let (kafka, postgres) =
        (Kafka::shared().await?, Postgres::start(PostgresOptions::new()).await?);
    let scene = scene_with(kafka, &postgres, "postgres").await?;
    let feed = feed(&scene, 6, PARTITIONS);
    let mut orders = slow(copier(&scene, "doubtful"));
    let mut doubtful = orders.start()?;
    for _ in 0..3 {
        let before = orders.committed()?;
        commits(&mut doubtful, &orders, before + 2).await?;
        postgres.pause().await?;
        commit_in_flight(&mut doubtful, &orders).await?;
        postgres.kill().await?;
        postgres.start_again().await?;
    }
    feed.end().await?;
    finish(&scene, vec![doubtful]).await?;
    let trail = orders.trail()?;
    ensure!(trail.fates("in_doubt") > 0, "no commit was in doubt");
    ensure!(trail.count("fate") > 0, "no doubt was resolved");
    scene.passed();
    Ok(())
}

#[tokio::test]
async fn of_two_copiers_with_one_name_one_ends_and_says_so() -> Result<()> {
    let shared = servers::shared().await?;
    try_join_all(STORES.map(async |store| twins(shared, store).await.context(store))).await?;
    Ok(())
}

async fn twins(shared: Shared, store: &str) -> Result<()> {
    let scene = scene_with(shared.kafka, shared.postgres, store).await?;
    let feed = feed(&scene, 7, PARTITIONS);
    let twin = |name| slow(copier(&scene, name)).flag("--instance", "twin");
    let (mut one, mut other) = (twin("one"), twin("other"));
    let mut first = one.start()?;
    commits(&mut first, &one, 3).await?;
    let mut second = other.start()?;
    let mut left = None;
    until("one of them to end", SOON, async || {
        left = match (first.is_running()?, second.is_running()?) {
            (false, false) => anyhow::bail!("both ended"),
            (true, true) => None,
            (first, _) => Some(first),
        };
        Ok(left.is_some())
    })
    .await?;
    let (mut ended, lives) = if left == Some(true) { (second, first) } else { (first, second) };
    let ended = ended.end(SOON).await?.with_code(1)?;
    ensure!(ended.last_line().contains("instance"), "it does not say why: {}", ended.last_line());
    feed.end().await?;
    finish(&scene, vec![lives]).await?;
    scene.passed();
    Ok(())
}

#[tokio::test]
async fn a_broker_that_pauses_for_ten_seconds_is_waited_for() -> Result<()> {
    let kafka = Kafka::start(KafkaOptions::new()).await?;
    let postgres = Postgres::shared().await?;
    let input = unique("input");
    kafka.create_topic(&input, PARTITIONS, &[]).await?;
    let scenes =
        try_join_all(STORES.map(|store| scene_on(&kafka, postgres, store, &input))).await?;
    // Commits of the group's offsets wait for the broker, too, and the group forgets who sent them.
    let mut weaker = scene_on(&kafka, postgres, "postgres", &input).await?;
    weaker.progress = Progress::Group;
    // All of them read the same.
    let feed = feed(&scenes[0], 8, PARTITIONS);
    let mut running = Vec::new();
    for scene in scenes.into_iter().chain([weaker]) {
        let guarantee = match scene.progress {
            Progress::Store => "exactly-once",
            Progress::Group => "at-least-once",
        };
        let mut orders = slow(copier(&scene, "patient"))
            .flag("--guarantee", guarantee)
            .flag("--instance", "patient");
        let mut patient = orders.start()?;
        commits(&mut patient, &orders, 3).await?;
        running.push((scene, orders, patient));
    }
    kafka.pause().await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    kafka.resume().await?;
    kafka.ready().await?;
    for (_, orders, patient) in &mut running {
        commits(patient, orders, orders.committed()? + 3).await.context("after the pause")?;
    }
    feed.end().await?;
    let finishing = running.into_iter().map(async |(scene, _, patient)| {
        stop_when_done(&scene, vec![patient]).await?;
        let report = scene.audit(&rules()).await?;
        match scene.progress {
            Progress::Store => report.exactly_once(),
            Progress::Group => report.at_least_once(),
        }
        .map_err(anyhow::Error::msg)?;
        scene.passed();
        anyhow::Ok(())
    });
    try_join_all(finishing).await?;
    Ok(())
}

#[tokio::test]
async fn partitions_added_while_a_copier_runs_start_at_their_beginning() -> Result<()> {
    let shared = servers::shared().await?;
    try_join_all(STORES.map(async |store| grown(shared, store).await.context(store))).await?;
    Ok(())
}

async fn grown(shared: Shared, store: &str) -> Result<()> {
    let input = unique("input");
    shared.kafka.create_topic(&input, PARTITIONS, &[]).await?;
    // The output has room for the new ones: a record without a key keeps its partition.
    let scene = match store {
        "kafka" => {
            let output = Store::topic(shared.kafka, PARTITIONS + 2).await?;
            Scene::on(COPIER, shared.kafka, output, &input)?
        }
        _ => scene_on(shared.kafka, shared.postgres, store, &input).await?,
    };
    // New partitions start at 0, whatever the policy for the others is.
    let mut orders = copier(&scene, "grower").flag("--start", "latest");
    let mut grower = orders.start()?;
    until("all partitions", SOON, async || {
        ensure!(grower.is_running()?, "it ended: {}", grower.words());
        Ok(orders.trail_so_far()?.count("start") == usize::try_from(PARTITIONS)?)
    })
    .await?;
    let admin: AdminClient<DefaultClientContext> = shared.kafka.client().create()?;
    let more = NewPartitions::new(&scene.input, usize::try_from(PARTITIONS + 2)?);
    for result in admin.create_partitions([&more], &AdminOptions::new()).await? {
        result.map_err(|(_, error)| anyhow::anyhow!("{error}"))?;
    }
    until("the new partitions", SOON, async || {
        // A partition without a leader yet is an error.
        Ok(read_ends(scene.client(), &[&scene.input]).await.is_ok_and(|ends| ends.len() == 6))
    })
    .await?;
    scene.feed(generate(9, 3000, PARTITIONS + 2, Mix::ALL)).await?;
    let compared = finish(&scene, vec![grower]).await?;
    ensure!(compared.inputs == 3000, "{compared:?}");
    scene.passed();
    Ok(())
}

#[tokio::test]
async fn a_stored_offset_outside_the_log_stops_its_partition_by_name_and_no_other() -> Result<()> {
    let shared = servers::shared().await?;
    try_join_all(STORES.map(async |store| outside(shared, store).await.context(store))).await?;
    Ok(())
}

async fn outside(shared: Shared, store: &str) -> Result<()> {
    let scene = scene(shared, store, generate(10, 2000, PARTITIONS, Mix::PLAIN)).await?;
    let mut orders = copier(&scene, "first").flag("--exit-when-idle-ms", "700");
    orders.start()?.end(SOON).await?.with_code(0)?;
    scene.feed(generate(11, 2000, PARTITIONS, Mix::PLAIN)).await?;
    let (before, _) = scene.evidence().await?;
    let partition = |index: i32| (std::sync::Arc::from(scene.input.as_str()), index);
    // Partition 0 has lost what was to be read next; partition 1 never had what is said to have been read.
    let mut gone = TopicPartitionList::new();
    let end = before.ends[&partition(0)];
    gone.add_partition_offset(&scene.input, 0, Offset::Offset(end - 1))?;
    let admin: AdminClient<DefaultClientContext> = shared.kafka.client().create()?;
    admin.delete_records(&gone, &AdminOptions::new()).await?;
    store_progress(&scene, 1, before.ends[&partition(1)] + 1000).await?;

    let mut orders = copier(&scene, "second").flag("--exit-when-idle-ms", "1500");
    orders.start()?.end(SOON).await?.with_code(0)?;
    let trail = orders.trail()?;
    for index in [0, 1] {
        let name = format!("{}/{index}", scene.input);
        let named = |event: &&tidegate_tests::fleet::Event| event.partition.as_ref() == Some(&name);
        ensure!(
            trail.all("partition_failed").any(|event| named(&event)),
            "{name} did not stop by name"
        );
        ensure!(!trail.all("start").any(|event| named(&event)), "{name} was read");
    }
    let (after, _) = scene.evidence().await?;
    for index in [2, 3] {
        let name = partition(index);
        ensure!(after.progress[&name] == after.ends[&name], "{name:?} did not go on");
    }
    ensure!(after.progress[&partition(0)] == before.progress[&partition(0)], "it was moved");
    scene.passed();
    Ok(())
}

/// Stores a position that no copier ever stored.
async fn store_progress(scene: &Scene, partition: i32, next: i64) -> Result<()> {
    match &scene.store {
        Store::Kafka(_) => {
            let mut client = scene.client().clone();
            client.set("group.id", &scene.group);
            let consumer: BaseConsumer = client.create()?;
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&scene.input, partition, Offset::Offset(next))?;
            consumer.commit(&list, CommitMode::Sync)?;
        }
        Store::Postgres(url) => {
            let mut database = PgConnection::connect(url).await?;
            let update = "update tidegate.progress set next_offset = $1 where partition = $2";
            let moved =
                sqlx::query(update).bind(next).bind(partition).execute(&mut database).await?;
            ensure!(moved.rows_affected() == 1, "no such progress");
        }
        Store::Sqlite(path) => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
            let mut database = SqliteConnection::connect_with(&options).await?;
            let update = "update tidegate_progress set next_offset = $1 where partition = $2";
            let moved =
                sqlx::query(update).bind(next).bind(partition).execute(&mut database).await?;
            ensure!(moved.rows_affected() == 1, "no such progress");
            database.close().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_topic_that_was_deleted_and_created_again_is_not_taken_for_the_old_one() -> Result<()> {
    let shared = servers::shared().await?;
    for store in ["postgres", "sqlite"] {
        let scene = scene(shared, store, generate(12, 400, PARTITIONS, Mix::PLAIN)).await?;
        let mut orders = copier(&scene, "first").flag("--exit-when-idle-ms", "700");
        orders.start()?.end(SOON).await?.with_code(0)?;
        let admin: AdminClient<DefaultClientContext> = shared.kafka.client().create()?;
        admin.delete_topics(&[&scene.input], &AdminOptions::new()).await?;
        until("the deletion", SOON, async || {
            Ok(shared.kafka.create_topic(&scene.input, PARTITIONS, &[]).await.is_ok())
        })
        .await?;
        // More records than there were: every stored offset lies inside the new log.
        scene.feed(generate(13, 4000, PARTITIONS, Mix::PLAIN)).await?;
        let mut orders = copier(&scene, "second").flag("--exit-when-idle-ms", "1500");
        orders.start()?.end(SOON).await?;
        let trail = orders.trail()?;
        ensure!(trail.count("partition_failed") == 4, "{store}: partitions must stop by name");
        ensure!(trail.count("start") == 0, "{store}: the new topic was read");
        scene.passed();
    }
    Ok(())
}

#[tokio::test]
async fn an_output_that_the_broker_does_not_take_is_set_aside_and_its_neighbours_are_stored()
-> Result<()> {
    let kafka = Kafka::shared().await?;
    let (input, output) = (unique("input"), unique("small"));
    kafka.create_topic(&input, PARTITIONS, &[]).await?;
    for dead_bytes in ["1048576", "20000"] {
        let output = format!("{output}-{dead_bytes}");
        kafka.create_topic(&output, PARTITIONS, &[("max.message.bytes", "20000")]).await?;
        let dead = format!("{output}.dead-letters");
        kafka.create_topic(&dead, 1, &[("max.message.bytes", dead_bytes)]).await?;
        let scene = Scene::on(COPIER, kafka, Store::Kafka(output), &input)?;
        if dead_bytes == "1048576" {
            let mut records = generate(14, 1000, PARTITIONS, Mix::PLAIN);
            for large in [3, 500, 501, 999] {
                records[large].value = Some(vec![b'x'; 40_000]);
            }
            scene.feed(records).await?;
        }
        let mut orders = copier(&scene, "copier");
        let running = orders.start()?;
        let rules = Rules { value_bytes: 19_000, dead_values: DeadValues::MayBeLeftOut, ..rules() };
        let compared = finish_by(&scene, vec![running], &rules).await.context(dead_bytes)?;
        ensure!((compared.outputs, compared.dead) == (996, 4), "{dead_bytes}: {compared:?}");
        scene.passed();
    }
    Ok(())
}
