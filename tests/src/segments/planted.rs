//! Segments for tests of their readers.

/// Key, value, and what the header says that names the source.
pub(super) type Plant<'a> = (&'a [u8], &'a [u8], Option<&'a [u8]>);

const TRANSACTIONAL: i16 = 16;
const CONTROL: i16 = 32;

/// Records of a transaction.
pub(super) fn data(producer: i64, epoch: i16, base: i64, records: &[Plant<'_>]) -> Vec<u8> {
    batch(TRANSACTIONAL, producer, epoch, base, records)
}

/// Records of no transaction.
pub(super) fn plain(base: i64, records: &[Plant<'_>]) -> Vec<u8> {
    batch(0, -1, -1, base, records)
}

/// The end of a transaction.
pub(super) fn marker(producer: i64, epoch: i16, base: i64, commits: bool) -> Vec<u8> {
    let key = [0, 0, 0, u8::from(commits)];
    batch(TRANSACTIONAL | CONTROL, producer, epoch, base, &[(&key, &[0; 6], None)])
}

/// Key and value of a group's offset.
pub(super) fn offset(group: &str, topic: &str, partition: i32, next: i64) -> (Vec<u8>, Vec<u8>) {
    let mut key = vec![0, 1];
    for text in [group, topic] {
        key.extend(i16::try_from(text.len()).expect("short").to_be_bytes());
        key.extend(text.as_bytes());
    }
    key.extend(partition.to_be_bytes());
    (key, [&[0, 3][..], &next.to_be_bytes(), &[0; 4]].concat())
}

fn batch(kind: i16, producer: i64, epoch: i16, base: i64, records: &[Plant<'_>]) -> Vec<u8> {
    let count = i32::try_from(records.len()).expect("few");
    let mut body = vec![0; 4];
    body.push(2);
    body.extend([0; 4]);
    body.extend(kind.to_be_bytes());
    body.extend((count - 1).to_be_bytes());
    body.extend([0; 16]);
    body.extend(producer.to_be_bytes());
    body.extend(epoch.to_be_bytes());
    body.extend([0; 4]);
    body.extend(count.to_be_bytes());
    for (number, plant) in records.iter().enumerate() {
        let record = record(number, plant);
        varint(&mut body, record.len());
        body.extend(record);
    }
    let length = u32::try_from(body.len()).expect("short");
    [&base.to_be_bytes()[..], &length.to_be_bytes(), &body].concat()
}

fn record(number: usize, (key, value, source): &Plant<'_>) -> Vec<u8> {
    let mut record = vec![0, 0];
    varint(&mut record, number);
    for bytes in [key, value] {
        varint(&mut record, bytes.len());
        record.extend(*bytes);
    }
    varint(&mut record, usize::from(source.is_some()));
    for bytes in source.iter().flat_map(|source| [super::SOURCE, source]) {
        varint(&mut record, bytes.len());
        record.extend(bytes);
    }
    record
}

fn varint(bytes: &mut Vec<u8>, number: usize) {
    let mut rest = number << 1;
    while rest > 127 {
        bytes.push(u8::try_from(rest & 127).expect("seven bits") | 128);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).expect("seven bits"));
}
