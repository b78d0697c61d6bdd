//! A topic as Kafka's own consumer sees it: a reader that shares no line with ours.

use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};

use crate::audit::Input;
use crate::servers::{Kafka, supervisor};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/ReadLog.java");

/// The records of a topic as they come from Kafka's own consumer, in the order of partitions and offsets.
#[derive(Debug)]
struct Reading {
    topic: Arc<str>,
    child: Child,
    out: BufReader<ChildStdout>,
    words: Option<JoinHandle<String>>,
}

impl Reading {
    fn start(kafka: &Kafka, topic: &str, more: &[String]) -> Result<Option<Self>> {
        let Some(mut command) = kafka.java()? else { return Ok(None) };
        ensure!(Path::new(PROGRAM).exists(), "{PROGRAM} is not there");
        command.arg(PROGRAM).args([kafka.bootstrap(), topic]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = supervisor::spawn(command).context("start Kafka's own consumer")?;
        let out = BufReader::with_capacity(1 << 16, child.stdout.take().expect("piped"));
        let words = child.stderr.take().expect("piped");
        // Read beside it: a full pipe would stop it.
        let words = Some(std::thread::spawn(move || all_of(words)));
        Ok(Some(Self { topic: topic.into(), child, out, words }))
    }

    /// The next record; nothing behind the last one.
    fn next(&mut self) -> Result<Option<Input>> {
        match self.record() {
            Ok(record) => Ok(record),
            Err(error) => {
                let words = self.words.take().and_then(|words| words.join().ok());
                let words = words.unwrap_or_default();
                bail!(
                    "Kafka's own consumer broke off ({error}); it needs a JDK with a compiler, as in the package \
                     default-jdk-headless; its words:\n{words}"
                )
            }
        }
    }

    fn record(&mut self) -> Result<Option<Input>> {
        match self.bytes::<1>()?[0] {
            0 => {}
            1 => return Ok(None),
            other => bail!("{other} is no mark of a record"),
        }
        let partition = (Arc::clone(&self.topic), i32::from_be_bytes(self.bytes()?));
        let offset = i64::from_be_bytes(self.bytes()?);
        Ok(Some(Input { partition, offset, key: self.part()?, value: self.part()? }))
    }

    fn part(&mut self) -> Result<Option<Vec<u8>>> {
        let length = i32::from_be_bytes(self.bytes()?);
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        let mut part = vec![0; length];
        self.out.read_exact(&mut part)?;
        Ok(Some(part))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.out.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn all_of(mut words: ChildStderr) -> String {
    let mut text = Vec::new();
    let _ = words.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads the topic by Kafka's own consumer too, and compares record by record. How many were compared, or `None` where
/// there is no such consumer at hand, because the server is no process of this machine.
///
/// # Errors
/// When the two readers differ, or it cannot be read.
pub fn agrees_with_java<'a>(
    kafka: &Kafka,
    topic: &str,
    inputs: impl Iterator<Item = &'a Input>,
) -> Result<Option<usize>> {
    let Some(mut reading) = Reading::start(kafka, topic, &[])? else { return Ok(None) };
    let mut compared = 0;
    for ours in inputs {
        let theirs = reading.next()?;
        ensure!(
            theirs.as_ref() == Some(ours),
            "the readers differ behind {compared} records: we have {}, Kafka's own consumer {}",
            place(Some(ours)),
            place(theirs.as_ref())
        );
        compared += 1;
    }
    let more = reading.next()?;
    ensure!(more.is_none(), "Kafka's own consumer has {} besides", place(more.as_ref()));
    Ok(Some(compared))
}

/// The records of a partition before an offset, by Kafka's own consumer; `None` as in [`agrees_with_java`].
///
/// # Errors
/// When it cannot be read.
pub async fn read_by_java(
    kafka: &Kafka,
    topic: &str,
    partition: i32,
    before: i64,
) -> Result<Option<Vec<Input>>> {
    let part = [partition.to_string(), before.to_string()];
    let Some(mut reading) = Reading::start(kafka, topic, &part)? else { return Ok(None) };
    let all = move || -> Result<Vec<Input>> {
        let mut records = Vec::new();
        while let Some(record) = reading.next()? {
            records.push(record);
        }
        Ok(records)
    };
    Ok(Some(tokio::task::spawn_blocking(all).await??))
}

fn place(input: Option<&Input>) -> String {
    let Some(input) = input else { return "nothing".to_owned() };
    let Input { partition: (topic, partition), offset, key, value } = input;
    let length = |bytes: &Option<Vec<u8>>| {
        bytes.as_ref().map_or("null".to_owned(), |bytes| format!("{} bytes", bytes.len()))
    };
    format!("{topic}/{partition}/{offset} (key {}, value {})", length(key), length(value))
}
