//! What a running pipeline says of itself, compared with what there is.

use std::time::Duration;

use anyhow::{Result, ensure};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidegate::prelude::*;
use tidegate::testing::MemoryStore;
use tidegate::{Handle, PartitionState};
use tidegate_kafka::Kafka as Client;
use tidegate_tests::fleet::{Mix, generate, produce, until};
use tidegate_tests::servers::{Kafka, unique};

/// What anything here may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Waits until the lags of the partitions, in their order, are these.
async fn lags(handle: &Handle, wanted: [u64; 2]) -> Result<()> {
    let mut seen = Vec::new();
    let found = until("the lag", SOON, async || {
        let partitions = handle.status().await?.partitions;
        seen = partitions.iter().map(tidegate::PartitionStatus::lag_records).collect();
        Ok(seen == wanted.map(Some))
    });
    found.await.map_err(|error| error.context(format!("{seen:?} instead of {wanted:?}")))
}

#[tokio::test]
async fn lag_is_what_is_not_stored_also_while_nothing_is_read_and_behind_markers_it_is_zero()
-> Result<()> {
    let kafka = Kafka::shared().await?;
    let input = unique("input");
    kafka.create_topic(&input, 2, &[]).await?;
    let producer: BaseProducer =
        kafka.client().set("transactional.id", unique("writer")).create()?;
    producer.init_transactions(SOON)?;
    for partition in [0, 0, 1] {
        producer.begin_transaction()?;
        let record = BaseRecord::<str, str>::to(&input).partition(partition).payload("x");
        producer.send(record).map_err(|(error, _)| error)?;
        producer.commit_transaction(SOON)?;
    }
    let store = MemoryStore::new();
    let handle = Pipeline::new(unique("lag"))
        // Little is fetched ahead: while nothing is taken, fetches tell nothing of the log's end.
        .from(Client::connect(kafka.bootstrap()).source(input.as_str()).records_per_fetch(10))
        .map(|record| record.offset.get())
        .exactly_once(store.sink())
        .start()
        .await?;
    until("three records and three markers", SOON, async || {
        let partitions = handle.status().await?.partitions;
        let ends: Vec<i64> = partitions.iter().filter_map(|p| Some(p.end?.get())).collect();
        Ok(ends == [4, 2])
    })
    .await?;
    lags(&handle, [0, 0]).await?;

    handle.pause().await?;
    let records = generate(1, 900, 1, Mix::PLAIN);
    produce(&kafka.client(), &input, records, 0).await?;
    lags(&handle, [900, 0]).await?;
    ensure!(handle.status().await?.partitions[0].state == PartitionState::Paused);
    produce(&kafka.client(), &input, generate(2, 700, 1, Mix::PLAIN), 0).await?;
    lags(&handle, [1600, 0]).await?;
    handle.resume().await?;
    lags(&handle, [0, 0]).await?;
    ensure!(store.rows().len() == 1603, "{} rows", store.rows().len());
    handle.stop(Duration::from_secs(10)).await?;
    Ok(())
}
