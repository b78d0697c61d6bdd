//! Writing: atomic with the offsets, fenced, refused, in doubt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::batch::{Batch, DeadLetter, DeadReason, Finished, Outcome, Outputs, Span};
use tidegate::record::{Epoch, Offset, PartitionId, Timestamp};
use tidegate::sink::{
    ClaimRequest, CommitError, DeadLetters, Move, Sink, SinkContext, SinkError, TransactionalSink,
};
use tidegate::source::Source;
use tidegate_kafka::{Message, partition_for_key};

use crate::support::*;

fn request(id: &PartitionId) -> ClaimRequest {
    ClaimRequest { partition: id.clone(), topic_id: None }
}

#[tokio::test]
async fn a_commit_stores_results_and_offsets_together() {
    let (input, output) = (topic("in", 1).await, topic("out", 2).await);
    fill(&input, 0, 100);
    let mut copier = Copier::start(&input, &output).await;
    let records = copier.member.read(100).await;
    assert_eq!(stored(&copier.group, &input, 0), None);
    let batch = copier.batch(&records, 0);
    copier.store(&batch).await;
    let mut copies = read_all(&output);
    assert_eq!(stored(&copier.group, &input, 0), Some(100));
    copies.sort_by_key(|read| read.text().parse::<u32>().unwrap());
    assert_eq!(copies.len(), 100);
    for (number, copy) in copies.iter().enumerate() {
        assert_eq!(copy.text(), number.to_string());
        assert_eq!(copy.header("tidegate-source"), Some(format!("{input}/0/{number}/0")));
    }
    // Claimed again, the progress is where the batch ended.
    let id = PartitionId::new(input.as_str(), 0);
    assert_eq!(claim(&mut copier.sink, &[request(&id)]).await[&id], Some(100));
    copier.member.close().await;
}

#[tokio::test]
async fn commits_of_an_idle_machine_follow_each_other_quickly() {
    let (input, output) = (topic("in", 1).await, topic("out", 1).await);
    fill(&input, 0, 50);
    let mut copier = Copier::start(&input, &output).await;
    let records = copier.member.read(50).await;
    let begun = Instant::now();
    for (first, record) in records.iter().enumerate() {
        let batch = copier.batch(std::slice::from_ref(record), first as i64);
        copier.store(&batch).await;
    }
    // Not a measurement: only that no step of 100 ms is part of every commit.
    println!("50 commits in {:?}", begun.elapsed());
    assert_eq!(read_all(&output).len(), 50);
    assert_eq!(stored(&copier.group, &input, 0), Some(50));
    copier.member.close().await;
}

#[tokio::test]
async fn a_batch_without_results_stores_its_progress() {
    let (input, output) = (topic("in", 2).await, topic("out", 1).await);
    fill(&input, 0, 3);
    let mut copier = Copier::start(&input, &output).await;
    let records = copier.member.read(3).await;
    let (first, second) =
        (PartitionId::new(input.as_str(), 0), PartitionId::new(input.as_str(), 1));
    let finished = records
        .iter()
        .map(|record| Finished {
            record: Arc::clone(record),
            outcome: Outcome::Filtered,
            attempts: 1,
        })
        .collect();
    let epochs = copier.member.epochs.clone();
    let span = |partition: &PartitionId, next| Span {
        partition: partition.clone(),
        epoch: epochs[partition],
        first: Offset::ZERO,
        next: Offset::new(next),
    };
    // The second span did not move: nothing is stored for it.
    let batch = Batch::new(vec![span(&first, 3), span(&second, 0)], finished);
    copier.store(&batch).await;
    assert_eq!(stored(&copier.group, &input, 0), Some(3));
    assert_eq!(stored(&copier.group, &input, 1), None);
    assert!(read_all(&output).is_empty());
    // A batch that stores nothing begins no transaction at all.
    let nothing = Batch::new(vec![span(&second, 0)], Vec::new());
    copier.store(&nothing).await;
    copier.member.close().await;
}

#[tokio::test]
async fn a_batch_of_an_old_epoch_is_refused_and_nothing_is_sent() {
    let (input, output) = (topic("in", 1).await, topic("out", 1).await);
    fill(&input, 0, 10);
    let mut copier = Copier::start(&input, &output).await;
    let records = copier.member.read(10).await;
    let id = PartitionId::new(input.as_str(), 0);
    let stale = copier.batch(&records, 0);
    let start = copier.member.start(&id, 0);
    copier.member.source.reposition(vec![start]);
    match copier.sink.commit(&stale).await.unwrap_err() {
        CommitError::Aborted(cause) => {
            assert!(cause.to_string().contains("repositioned"), "{cause}");
        }
        other => panic!("{other}"),
    }
    assert!(
        read_isolated(&output, "read_uncommitted").is_empty(),
        "not one message left the process"
    );
    // The same records under the new epoch go through.
    let fresh = copier.batch(&records, 0);
    copier.store(&fresh).await;
    assert_eq!(read_all(&output).len(), 10);
    copier.member.close().await;
}

#[tokio::test]
async fn a_partition_that_is_not_assigned_is_refused() {
    let (input, output) = (topic("in", 1).await, topic("out", 1).await);
    fill(&input, 0, 1);
    let mut copier = Copier::start(&input, &output).await;
    let records = copier.member.read(1).await;
    let mut foreign = (*records[0]).clone();
    foreign.partition = PartitionId::new(input.as_str(), 7);
    let batch = batch(&[Arc::new(foreign)], 0, Epoch::new(1), &output);
    assert!(matches!(copier.sink.commit(&batch).await, Err(CommitError::Aborted(_))));
    copier.member.close().await;
}

#[tokio::test]
async fn a_dead_letter_keeps_the_record_and_tells_its_story() {
    let (input, output, dead) =
        (topic("in", 1).await, topic("out", 1).await, topic("dead", 1).await);
    fill(&input, 0, 3);
    let group = unique("g");
    let source = kafka().source(input.as_str());
    let sink = source.sink().dead_letters(dead.as_str()).outputs([output.as_str()]);
    let mut copier = Copier::start_with(source, sink, &group, &output).await;
    let records = copier.member.read(3).await;
    let letter = |without_value| {
        Outcome::Dead(DeadLetter {
            reason: DeadReason::Process,
            error: "no such airport".into(),
            without_value,
        })
    };
    let outcomes =
        [Outcome::Emit(Outputs::One(copy(&records[0], &output))), letter(false), letter(true)];
    let finished = records
        .iter()
        .zip(outcomes)
        .map(|(record, outcome)| Finished { record: Arc::clone(record), outcome, attempts: 4 })
        .collect();
    let id = PartitionId::new(input.as_str(), 0);
    let span = Span {
        partition: id.clone(),
        epoch: copier.member.epochs[&id],
        first: Offset::ZERO,
        next: Offset::new(3),
    };
    copier.store(&Batch::new(vec![span], finished)).await;
    assert_eq!(read_all(&output).len(), 1);
    let letters = read_all(&dead);
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0].text(), "1");
    assert_eq!(letters[0].header("tidegate-source"), Some(format!("{input}/0/1/0")));
    assert_eq!(letters[0].header("tidegate-error-reason").as_deref(), Some("process"));
    assert_eq!(letters[0].header("tidegate-error").as_deref(), Some("no such airport"));
    assert_eq!(letters[0].header("tidegate-attempts").as_deref(), Some("4"));
    assert_eq!(letters[1].value, None);
    assert_eq!(letters[1].header("tidegate-value-bytes").as_deref(), Some("1"));
    // SHA-256 of "2".
    assert_eq!(
        letters[1].header("tidegate-value-sha256").as_deref(),
        Some("d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35")
    );
    copier.member.close().await;
}

#[tokio::test]
async fn keys_go_where_kafkas_own_clients_put_them_and_null_differs_from_empty() {
    let (input, output) = (topic("in", 1).await, topic("out", 5).await);
    fill(&input, 0, 1);
    let mut copier = Copier::start(&input, &output).await;
    let records = copier.member.read(1).await;
    let keys = ["a", "b", "quake", "", "x y z", "21", "foobar"];
    let mut messages: Vec<Message> =
        keys.iter().map(|key| Message::to(output.as_str()).key(*key).value("v")).collect();
    messages.push(Message::to(output.as_str()).value("null key"));
    messages.push(Message::to(output.as_str()).partition(3).key("a"));
    messages.push(Message::to(output.as_str()).partition(4).key("").value("").header("h", "1"));
    let id = PartitionId::new(input.as_str(), 0);
    let span = Span {
        partition: id.clone(),
        epoch: copier.member.epochs[&id],
        first: Offset::ZERO,
        next: Offset::new(1),
    };
    let finished = vec![Finished {
        record: Arc::clone(&records[0]),
        outcome: Outcome::Emit(Outputs::Many(messages)),
        attempts: 1,
    }];
    copier.store(&Batch::new(vec![span], finished)).await;
    let reads = read_all(&output);
    assert_eq!(reads.len(), 10);
    for key in keys {
        let wanted = partition_for_key(key.as_bytes(), 5);
        let found = reads.iter().find(|read| {
            read.key.as_deref() == Some(key.as_bytes()) && read.value.as_deref() == Some(b"v")
        });
        assert_eq!(found.expect(key).partition, wanted, "{key:?}");
    }
    let null = reads.iter().find(|read| read.key.is_none()).unwrap();
    assert_eq!(null.text(), "null key");
    let tombstone = reads.iter().find(|read| read.value.is_none()).unwrap();
    assert_eq!((tombstone.partition, tombstone.key.as_deref()), (3, Some(&b"a"[..])));
    let empty = reads.iter().find(|read| read.value.as_deref() == Some(b"")).unwrap();
    assert_eq!((empty.partition, empty.key.as_deref()), (4, Some(&b""[..])));
    assert_eq!(empty.headers[0], ("h".to_string(), Some(b"1".to_vec())));
    copier.member.close().await;
}

/// A batch of three records of which the middle one's result is this large.
fn with_a_large_middle(
    copier: &Copier,
    records: &[Arc<tidegate::record::RawRecord>],
    bytes: usize,
) -> Batch<Message> {
    let mut batch = copier.batch(records, 0);
    let (spans, mut finished) = {
        let taken = std::mem::replace(&mut batch, Batch::new(Vec::new(), Vec::new()));
        taken.into_parts()
    };
    let large = Message::to(copier.output.as_str()).value(vec![b'x'; bytes]);
    finished[1].outcome = Outcome::Emit(Outputs::One(large));
    Batch::new(spans, finished)
}

fn rejected_at(error: &CommitError) -> Option<i64> {
    match error {
        CommitError::Rejected(rejection) => rejection.record.as_ref().map(|at| at.offset.get()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_result_larger_than_the_producer_takes_is_rejected_by_name() {
    let (input, output) = (topic("in", 1).await, topic("out", 1).await);
    fill(&input, 0, 3);
    let mut copier = Copier::start(&input, &output).await;
    let records = copier.member.read(3).await;
    let batch = with_a_large_middle(&copier, &records, 3_000_000);
    let error = copier.sink.commit(&batch).await.unwrap_err();
    assert_eq!(rejected_at(&error), Some(1), "{error}");
    assert!(read_all(&output).is_empty());
    assert_eq!(stored(&copier.group, &input, 0), None);
    // The healthy neighbours commit with the same producer.
    let healthy = copier.batch(&records, 0);
    copier.store(&healthy).await;
    assert_eq!(read_all(&output).len(), 3);
    copier.member.close().await;
}

#[tokio::test]
async fn a_result_larger_than_the_topic_takes_is_rejected_by_name_and_its_neighbours_commit() {
    let input = topic("in", 1).await;
    let output = topic_with("out", 1, &[("max.message.bytes", "5000")]).await;
    fill(&input, 0, 3);
    let mut copier = Copier::start(&input, &output).await;
    let records = copier.member.read(3).await;
    let id = PartitionId::new(input.as_str(), 0);
    let batch = with_a_large_middle(&copier, &records, 20_000);
    // The broker refuses the whole set of messages first: then it is sent message by message.
    let mut rejected = None;
    for _ in 0..3 {
        match copier.sink.commit(&batch).await.unwrap_err() {
            CommitError::InDoubt(cause) => {
                println!("{cause}");
                assert_eq!(claim(&mut copier.sink, &[request(&id)]).await[&id], None);
            }
            error => {
                rejected = rejected_at(&error);
                break;
            }
        }
    }
    assert_eq!(rejected, Some(1));
    let healthy = copier.batch(&records, 0);
    copier.store(&healthy).await;
    assert_eq!(read_all(&output).len(), 3);
    copier.member.close().await;
}

#[tokio::test]
async fn a_probe_finds_the_refused_record_and_leaves_nothing() {
    let input = topic("in", 1).await;
    let output = topic_with("out", 1, &[("max.message.bytes", "5000")]).await;
    fill(&input, 0, 3);
    let mut copier = Copier::start(&input, &output).await;
    let records = copier.member.read(3).await;
    let batch = with_a_large_middle(&copier, &records, 20_000);
    let (first, rest) = batch.split(1);
    copier.sink.probe(&first).await.unwrap();
    let error = copier.sink.probe(&rest).await.unwrap_err();
    assert_eq!(rejected_at(&error), Some(1), "{error}");
    assert!(read_all(&output).is_empty());
    assert_eq!(stored(&copier.group, &input, 0), None);
    let healthy = copier.batch(&records, 0);
    copier.store(&healthy).await;
    assert_eq!(read_all(&output).len(), 3);
    copier.member.close().await;
}

#[tokio::test]
async fn a_second_sink_with_the_same_name_fences_the_first_and_a_claim_takes_it_back() {
    let (input, output) = (topic("in", 1).await, topic("out", 1).await);
    fill(&input, 0, 10);
    let group = unique("g");
    let source = kafka().source(input.as_str());
    let mut context = sink_context(&group);
    context.instance = Some("one".into());
    let mut sink = source.sink();
    sink.open(&context).await.unwrap();
    let mut twin = source.sink();
    let member = Member::join(source, &group).await;
    let mut copier = Copier { member, sink, group: group.clone(), output: output.clone() };
    let assignment = copier.member.assigned().await;
    copier.claim(&assignment).await;
    copier.member.answer(assignment, |_| 0);
    copier.member.credit_all();
    let records = copier.member.read(10).await;

    twin.open(&context).await.unwrap();
    let batch = copier.batch(&records, 0);
    match copier.sink.commit(&batch).await.unwrap_err() {
        CommitError::Fenced(_) | CommitError::InDoubt(_) => {}
        other => panic!("{other}"),
    }
    assert!(read_all(&output).is_empty());
    let id = PartitionId::new(input.as_str(), 0);
    assert_eq!(claim(&mut copier.sink, &[request(&id)]).await[&id], None);
    copier.store(&batch).await;
    assert_eq!(read_all(&output).len(), 10);
    assert_eq!(stored(&group, &input, 0), Some(10));

    // Ping and pong: after a few rounds it is said by name.
    let mut rounds = 0;
    let error = loop {
        rounds += 1;
        assert!(rounds < 20, "the twin is named in the end");
        let sink = if rounds % 2 == 0 { &mut twin } else { &mut copier.sink };
        // Whoever lost its producer takes it back by a claim.
        sink.probe(&batch).await.ok();
        match sink.claim(&[request(&id)]).await {
            Ok(_) => {}
            Err(SinkError::Stop(error)) => break error,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(error.is_fenced(), "{error}");
    assert!(error.to_string().contains("same instance"), "{error}");
    copier.member.close().await;
}

#[tokio::test]
async fn a_claim_after_a_killed_transaction_settles_it_and_resumes_before_it() {
    let (input, output) = (topic("in", 1).await, topic("out", 1).await);
    fill(&input, 0, 20);
    let group = unique("g");
    // The first life: commits ten, then dies in the middle of the next transaction. Its death is
    // played by a producer of the same id that sends and never ends.
    let mut context = sink_context(&group);
    context.instance = Some("one".into());
    {
        let source = kafka().source(input.as_str());
        let mut sink = source.sink();
        sink.open(&context).await.unwrap();
        let member = Member::join(source, &group).await;
        let mut copier = Copier { member, sink, group: group.clone(), output: output.clone() };
        let assignment = copier.member.assigned().await;
        copier.claim(&assignment).await;
        copier.member.answer(assignment, |_| 0);
        copier.member.credit_all();
        let records = copier.member.read(20).await;
        let batch = copier.batch(&records[..10], 0);
        copier.store(&batch).await;
        copier.sink.close().await;
        copier.member.close().await;
    }
    let ghost = open_transaction_as(&format!("{group}-one-0"));
    write(&ghost, &output, 0, "ghost");
    rdkafka::producer::Producer::flush(&ghost, PATIENCE).unwrap();
    std::mem::forget(ghost);

    // The second life.
    let source = kafka().source(input.as_str());
    let mut sink = source.sink();
    sink.open(&context).await.unwrap();
    let member = Member::join(source, &group).await;
    let mut copier = Copier { member, sink, group: group.clone(), output: output.clone() };
    let assignment = copier.member.assigned().await;
    let claims = copier.claim(&assignment).await;
    let id = PartitionId::new(input.as_str(), 0);
    assert_eq!(claims[&id], Some(10));
    copier.member.answer(assignment, |id| claims[id].unwrap());
    copier.member.credit_all();
    let records = copier.member.read(10).await;
    let batch = copier.batch(&records, 10);
    copier.store(&batch).await;
    // Readers are not held up by the ghost, and never see it.
    let copies = read_all(&output);
    assert_eq!(copies.len(), 20);
    assert!(copies.iter().all(|copy| copy.text() != "ghost"));
    copier.member.close().await;
}

#[tokio::test]
async fn positions_are_stored_while_the_assignment_waits_for_its_answer() {
    let (input, output) = (topic("in", 2).await, topic("out", 1).await);
    let group = unique("g");
    let source = kafka().source(input.as_str());
    let mut sink = source.sink();
    sink.open(&sink_context(&group)).await.unwrap();
    let member = Member::join(source, &group).await;
    let mut copier = Copier { member, sink, group: group.clone(), output };
    let assignment = copier.member.assigned().await;
    copier.claim(&assignment).await;
    let to = |partition: i32, expected: Option<i64>, next| Move {
        partition: PartitionId::new(input.as_str(), partition),
        expected: expected.map(Offset::new),
        next: Offset::new(next),
        topic_id: None,
    };
    copier.sink.reposition(&[to(0, None, 5), to(1, None, 6)]).await.unwrap();
    assert_eq!((stored(&group, &input, 0), stored(&group, &input, 1)), (Some(5), Some(6)));
    // Insert-if-absent leaves what is there; a seek compares.
    copier.sink.reposition(&[to(0, None, 9)]).await.unwrap();
    assert_eq!(stored(&group, &input, 0), Some(5));
    copier.sink.reposition(&[to(0, Some(5), 2)]).await.unwrap();
    assert_eq!(stored(&group, &input, 0), Some(2));
    match copier.sink.reposition(&[to(0, Some(5), 3)]).await.unwrap_err() {
        CommitError::Fenced(_) => {}
        other => panic!("{other}"),
    }
    // A partition of somebody else is left to its owner.
    copier.sink.reposition(&[to(7, None, 3)]).await.unwrap();
    assert_eq!(stored(&group, &input, 7), None);
    assignment.answer(Vec::new());
    copier.member.close().await;
}

#[tokio::test]
async fn bad_settings_are_refused_before_anything_is_consumed() {
    let input = topic("in", 1).await;
    let group = unique("g");
    let open = async |sink: tidegate_kafka::KafkaSink, context: SinkContext| {
        let mut sink = sink;
        match sink.open(&context).await.unwrap_err() {
            SinkError::Stop(error) => {
                assert!(error.is_configuration(), "{error}");
                error.to_string()
            }
            other => panic!("{other}"),
        }
    };
    let source = kafka().source(input.as_str());
    let error = open(source.sink().outputs(["no-such-topic"]), sink_context(&group)).await;
    assert!(error.starts_with("outputs: topic no-such-topic does not exist"), "{error}");
    let error = open(source.sink().dead_letters("no-such-topic"), sink_context(&group)).await;
    assert!(error.starts_with("dead_letters: "), "{error}");
    let expected = SinkContext { dead_letters: DeadLetters::Expected, ..sink_context(&group) };
    let error = open(source.sink(), expected).await;
    assert!(error.starts_with("dead_letters: "), "{error}");
    let hour = Duration::from_secs(3600);
    let error = open(source.sink().transaction_timeout(hour), sink_context(&group)).await;
    assert!(error.starts_with("transaction_timeout: "), "{error}");
    assert!(error.contains("3600000") && error.contains("900000"), "both numbers: {error}");
    let error = open(source.sink().set("acks", "1"), sink_context(&group)).await;
    assert!(error.starts_with("acks: "), "{error}");
}

#[tokio::test]
async fn a_message_to_a_missing_topic_needs_an_operator() {
    let input = topic("in", 1).await;
    fill(&input, 0, 1);
    let group = unique("g");
    let source = kafka().source(input.as_str());
    let sink = source
        .sink()
        .transaction_timeout(Duration::from_secs(30))
        .set("topic.metadata.propagation.max.ms", "1000");
    let mut copier = Copier::start_with(source, sink, &group, "no-such-topic").await;
    let records = copier.member.read(1).await;
    let batch = copier.batch(&records, 0);
    match copier.sink.commit(&batch).await.unwrap_err() {
        CommitError::Aborted(cause) => assert!(cause.is_for_operator(), "{cause}"),
        other => panic!("{other}"),
    }
    assert_eq!(stored(&group, &input, 0), None);
    copier.member.close().await;
}

#[tokio::test]
async fn a_batch_larger_than_the_producers_queue_is_sent_whole() {
    // Messages leave it far more slowly than they come.
    let mut copier = with_a_small_queue("1000", "50").await;
    let output = copier.output.clone();
    let many = (0..20_000u32)
        .map(|number| Message::to(output.as_str()).key(number.to_string()).value("x"))
        .collect();
    store_as_one(&mut copier, many).await;
    assert_eq!(read_all(&output).len(), 20_000);
    copier.member.close().await;
}

/// Messages that differ only in key and value are handed over in one call, the others one by one.
#[tokio::test]
async fn messages_keep_their_order_whatever_is_between_them_and_however_full_the_queue_is() {
    let mut copier = with_a_small_queue("300", "1").await;
    let output = copier.output.clone();
    let many: Vec<Message> = (0..5_000u32).map(|number| of_some_kind(number, &output)).collect();
    store_as_one(&mut copier, many).await;
    let copies = read_all(&output);
    assert_eq!(copies.len(), 5_000);
    for partition in 0..3 {
        let of_it = copies.iter().filter(|copy| copy.partition == partition);
        let numbers: Vec<u32> = of_it.map(|copy| copy.text().parse().unwrap()).collect();
        assert!(numbers.len() > 1_000, "{partition}: {}", numbers.len());
        assert!(numbers.is_sorted_by(|one, next| one < next), "{partition}: {numbers:?}");
    }
    for copy in &copies {
        let number: u32 = copy.text().parse().unwrap();
        assert_eq!(copy.header("kind").is_some(), number % 50 == 49, "{number}");
        assert_eq!(copy.key.is_none(), number.is_multiple_of(3), "{number}");
        assert_eq!(copy.timestamp == Some(LONG_AGO), number % 70 == 69, "{number}");
        if let Some(asked) = of_some_kind(number, &output).partition {
            assert_eq!(copy.partition, asked, "{number}");
        }
    }
    copier.member.close().await;
}

/// A timestamp that no message gets by itself.
const LONG_AGO: i64 = 1_700_000_000_000;

/// One record of input, three partitions of output, and a producer that holds few messages.
async fn with_a_small_queue(messages: &str, linger_ms: &str) -> Copier {
    let (input, output) = (topic("in", 1).await, topic("out", 3).await);
    fill(&input, 0, 1);
    let source = kafka().source(input.as_str());
    let sink = source.sink().set("queue.buffering.max.messages", messages);
    let sink = sink.set("linger.ms", linger_ms);
    Copier::start_with(source, sink, &unique("copier"), &output).await
}

/// A message whose partition, key, headers and timestamp change with its number.
fn of_some_kind(number: u32, output: &str) -> Message {
    let mut message = Message::to(output).value(number.to_string());
    if !number.is_multiple_of(3) {
        message = message.key(number.to_string());
    }
    if let partition @ 0..3 = number as i32 / 40 % 4 {
        message = message.partition(partition);
    }
    if number % 50 == 49 {
        message = message.header("kind", "some");
    }
    if number % 70 == 69 {
        message = message.timestamp(Timestamp::from_millis(LONG_AGO));
    }
    message
}

/// Stores these messages as the results of the input's only record.
async fn store_as_one(copier: &mut Copier, messages: Vec<Message>) {
    let records = copier.member.read(1).await;
    let id = records[0].partition.clone();
    let span = Span {
        epoch: copier.member.epochs[&id],
        partition: id,
        first: Offset::ZERO,
        next: Offset::new(1),
    };
    let finished = vec![Finished {
        record: Arc::clone(&records[0]),
        outcome: Outcome::Emit(Outputs::Many(messages)),
        attempts: 1,
    }];
    copier.store(&Batch::new(vec![span], finished)).await;
}

#[tokio::test]
async fn the_plain_sink_writes_and_names_a_refused_record() {
    let (input, output, dead) =
        (topic("in", 1).await, topic("out", 1).await, topic("dead", 1).await);
    fill(&input, 0, 3);
    let mut member = Member::join(kafka().source(input.as_str()), &unique("g")).await;
    let assignment = member.assigned().await;
    member.answer(assignment, |_| 0);
    member.credit_all();
    let records = member.read(3).await;
    let mut sink = kafka().sink().lineage().dead_letters(dead.as_str()).outputs([output.as_str()]);
    sink.open(&sink_context("g")).await.unwrap();
    let good = batch(&records, 0, Epoch::new(1), &output);
    sink.write(&good).await.unwrap();
    let copies = read_all(&output);
    assert_eq!(copies.len(), 3);
    assert_eq!(copies[2].header("tidegate-source"), Some(format!("{input}/0/2/0")));
    let (spans, mut finished) = good.into_parts();
    let large = Message::to(output.as_str()).value(vec![b'x'; 3_000_000]);
    finished[1].outcome = Outcome::Emit(Outputs::One(large));
    match sink.write(&Batch::new(spans, finished)).await.unwrap_err() {
        SinkError::Rejected(rejection) => {
            assert_eq!(rejection.record.unwrap().offset, Offset::new(1));
        }
        other => panic!("{other}"),
    }
    let mut missing = kafka().sink().outputs(["no-such-topic"]);
    assert!(matches!(missing.open(&sink_context("g")).await, Err(SinkError::Stop(_))));
    sink.close().await;
    member.close().await;
}

#[tokio::test]
async fn the_plain_sink_names_the_record_that_its_topic_refuses_and_no_neighbour() {
    let input = topic("in", 1).await;
    let output = topic_with("out", 1, &[("max.message.bytes", "5000")]).await;
    fill(&input, 0, 3);
    let mut member = Member::join(kafka().source(input.as_str()), &unique("g")).await;
    let assignment = member.assigned().await;
    member.answer(assignment, |_| 0);
    member.credit_all();
    let records = member.read(3).await;
    let mut sink = kafka().sink().set("linger.ms", "100");
    sink.open(&sink_context("g")).await.unwrap();
    let with_middle = |bytes: usize| {
        let (spans, mut finished) = batch(&records, 0, Epoch::new(1), &output).into_parts();
        let value = vec![b'x'; bytes];
        finished[1].outcome =
            Outcome::Emit(Outputs::One(Message::to(output.as_str()).value(value)));
        Batch::new(spans, finished)
    };
    // The broker refuses the whole set of messages: only one that is sent alone can be blamed.
    match sink.write(&with_middle(20_000)).await.unwrap_err() {
        SinkError::Rejected(rejection) => assert_eq!(rejection.record, None, "{}", rejection.cause),
        other => panic!("{other}"),
    }
    let (first, rest) = with_middle(20_000).split(1);
    let (middle, last) = rest.split(1);
    sink.write(&first).await.unwrap();
    match sink.write(&middle).await.unwrap_err() {
        SinkError::Rejected(rejection) => {
            assert_eq!(rejection.record.unwrap().offset, Offset::new(1));
        }
        other => panic!("{other}"),
    }
    sink.write(&last).await.unwrap();
    assert_eq!(read_all(&output).len(), 2);
    sink.close().await;
    member.close().await;
}

#[tokio::test]
async fn a_claim_waits_for_a_predecessors_pending_offsets_and_learns_what_became_of_them() {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::producer::Producer;
    let (input, output) = (topic("in", 1).await, topic("out", 1).await);
    fill(&input, 0, 10);
    let group = unique("g");
    // A predecessor that stopped between sending its offsets and its commit.
    let place: BaseConsumer = config().set("group.id", &group).create().unwrap();
    let ghost = open_transaction("ghost");
    write(&ghost, &output, 0, "ghost");
    let mut offsets = rdkafka::TopicPartitionList::new();
    offsets.add_partition_offset(&input, 0, rdkafka::Offset::Offset(4)).unwrap();
    ghost
        .send_offsets_to_transaction(&offsets, &place.group_metadata().unwrap(), PATIENCE)
        .unwrap();

    let source = kafka().source(input.as_str());
    let mut sink = source.sink();
    sink.open(&sink_context(&group)).await.unwrap();
    let mut member = Member::join(source, &group).await;
    let assignment = member.assigned().await;
    let id = PartitionId::new(input.as_str(), 0);
    match sink.claim(&[request(&id)]).await.unwrap_err() {
        SinkError::Retry(cause) => println!("while it is pending: {cause}"),
        other => panic!("{other}"),
    }
    ghost.commit_transaction(PATIENCE).unwrap();
    assert_eq!(claim(&mut sink, &[request(&id)]).await[&id], Some(4));
    assignment.answer(Vec::new());
    member.close().await;
}
