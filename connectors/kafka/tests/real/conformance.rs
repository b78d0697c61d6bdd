//! The promises of the conformance kit, kept by Kafka.

use std::collections::BTreeMap;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::Producer;
use tidegate::record::{Coordinates, Offset, PartitionId};
use tidegate::testing::conformance::{Ability, Guard, Harness, LeftOpen, View};
use tidegate_kafka::Message;
use tokio::sync::OnceCell;

use crate::process::{Process, transactional_id};
use crate::support::*;

/// More records than any promise passes.
const RECORDS: u32 = 20_000;
/// Larger messages are refused by the output's topic.
const MESSAGE_BYTES_MAX: usize = 5_000;

/// Topics of their own for the output; the input is only read and serves all promises.
#[derive(Clone)]
struct Topics {
    inputs: Vec<String>,
    output: String,
    dead: String,
    group: String,
}

impl Topics {
    async fn new() -> Self {
        static INPUTS: OnceCell<Vec<String>> = OnceCell::const_new();
        let inputs = INPUTS.get_or_init(async || {
            let mut inputs = Vec::new();
            for _ in 0..3 {
                let name = topic("in", 1).await;
                fill(&name, 0, RECORDS);
                inputs.push(name);
            }
            inputs
        });
        let most = MESSAGE_BYTES_MAX.to_string();
        Self {
            inputs: inputs.await.clone(),
            output: topic_with("out", 1, &[("max.message.bytes", most.as_str())]).await,
            dead: topic("dead", 1).await,
            group: unique("conformance"),
        }
    }

    fn read(&self) -> View {
        let progress: BTreeMap<PartitionId, Offset> = self
            .inputs
            .iter()
            .filter_map(|topic| {
                let next = stored(&self.group, topic, 0)?;
                Some((PartitionId::new(topic.as_str(), 0), Offset::new(next)))
            })
            .collect();
        let outputs = read_all(&self.output).into_iter().map(|read| read.text().parse());
        let dead = read_all(&self.dead);
        let dead = dead.iter().map(|read| source_of(&read.header("tidegate-source").expect("it")));
        View {
            outputs: outputs.collect::<Result<_, _>>().expect("numbers"),
            dead: dead.collect(),
            progress,
        }
    }
}

/// `topic/partition/offset/i`.
fn source_of(header: &str) -> Coordinates {
    let parts: Vec<&str> = header.split('/').collect();
    let [topic, partition, offset, _] = parts[..] else { panic!("four parts: {header}") };
    Coordinates {
        partition: PartitionId::new(topic, partition.parse().expect("a number")),
        offset: Offset::new(offset.parse().expect("a number")),
    }
}

impl Harness for Topics {
    type Sink = Process;

    async fn sink(&self) -> Process {
        Process::new(&self.group, &self.dead)
    }

    fn output(&self, number: u64) -> Message {
        Message::to(self.output.as_str()).value(number.to_string())
    }

    async fn view(&self) -> View {
        // The reader's client blocks.
        let topics = self.clone();
        tokio::task::spawn_blocking(move || topics.read()).await.expect("read")
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::Compare => Some("the group's offsets are written, not compared"),
            Ability::Snapshot => Some("read_committed isolates each partition by itself"),
            Ability::Wire => Some("the client connects past any wire that a test could cut"),
            _ => None,
        }
    }

    fn partition(&self, number: i32) -> PartitionId {
        PartitionId::new(self.inputs[usize::try_from(number).expect("0 to 2")].as_str(), 0)
    }

    fn refused_output(&self) -> Message {
        Message::to(self.output.as_str()).value(vec![b'x'; 4 * MESSAGE_BYTES_MAX])
    }

    /// What a process leaves behind that was killed between its offsets and its commit: a producer
    /// of the same transactional id that never ends.
    async fn leave_open(&self, left: LeftOpen<Message>) -> Guard {
        let LeftOpen { partition, next, output, .. } = left;
        let ghost = open_transaction_as(&transactional_id(&self.group, &partition));
        let value = output.value.expect("a value");
        write(&ghost, &self.output, 0, std::str::from_utf8(&value).expect("text"));
        let place: BaseConsumer = config().set("group.id", &self.group).create().expect("made");
        let mut offsets = TopicPartitionList::new();
        let next = rdkafka::Offset::Offset(next.get());
        offsets.add_partition_offset(partition.topic().as_str(), 0, next).expect("an offset");
        let place = place.group_metadata().expect("metadata");
        ghost.send_offsets_to_transaction(&offsets, &place, PATIENCE).expect("sent");
        ghost.flush(PATIENCE).expect("delivered");
        Box::new(ghost)
    }
}

tidegate::sink_conformance!(Topics::new().await);
