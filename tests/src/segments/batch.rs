//! The batches of a log segment, in the broker's own format (version 2 of messages).

use anyhow::{Context, Result, bail, ensure};

/// Bytes before the length of a batch, with it.
const FRONT: usize = 12;

/// One batch.
#[derive(Clone, Debug)]
pub(super) struct Batch<'a> {
    pub(super) producer: i64,
    pub(super) epoch: i16,
    pub(super) transactional: bool,
    /// A marker: it ends a transaction, and holds nothing for readers.
    pub(super) control: bool,
    pub(super) records: Vec<Record<'a>>,
}

/// One record.
#[derive(Clone, Debug)]
pub(super) struct Record<'a> {
    pub(super) offset: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

/// The batches of a segment, or of several one after the other.
pub(super) fn batches(mut log: &[u8]) -> impl Iterator<Item = Result<Batch<'_>>> {
    std::iter::from_fn(move || {
        if log.is_empty() {
            return None;
        }
        let batch = split(&mut log).and_then(batch);
        if batch.is_err() {
            log = &[];
        }
        Some(batch)
    })
}

/// Takes the first batch off the front.
fn split<'a>(log: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = log.get(8..FRONT).context("a batch without a length")?;
    let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
    let (batch, rest) =
        log.split_at_checked(FRONT + length as usize).context("a batch that is cut off")?;
    *log = rest;
    Ok(batch)
}

fn batch(bytes: &[u8]) -> Result<Batch<'_>> {
    let mut cursor = Cursor(bytes);
    let base = cursor.i64()?;
    cursor.skip(8)?; // length, leader's epoch
    let version = cursor.take(1)?[0];
    ensure!(version == 2, "a batch of version {version}");
    cursor.skip(4)?; // checksum
    let attributes = cursor.i16()?;
    ensure!(attributes & 7 == 0, "a compressed batch, which this reader cannot read");
    cursor.skip(20)?; // offset of the last record, first and last time
    let (producer, epoch) = (cursor.i64()?, cursor.i16()?);
    cursor.skip(4)?; // first sequence number
    let count = cursor.i32()?;
    let records = (0..count).map(|_| record(&mut cursor, base)).collect::<Result<_>>()?;
    let (transactional, control) = (attributes & 16 != 0, attributes & 32 != 0);
    Ok(Batch { producer, epoch, transactional, control, records })
}

fn record<'a>(cursor: &mut Cursor<'a>, base: i64) -> Result<Record<'a>> {
    let length = usize::try_from(cursor.varint()?)?;
    let mut record = Cursor(cursor.take(length)?);
    record.skip(1)?; // attributes
    record.varint()?; // time
    let offset = base + record.varint()?;
    let (key, value) = (record.bytes()?, record.bytes()?);
    let mut headers = Vec::new();
    for _ in 0..record.varint()? {
        let name = record.bytes()?.context("a header without a name")?;
        headers.push((name, record.bytes()?));
    }
    Ok(Record { offset, key, value, headers })
}

/// Takes values off the front of bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn skip(&mut self, count: usize) -> Result<()> {
        self.take(count).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many were taken"))
    }

    pub(super) fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Seven bits a byte, the lowest first; even numbers are the positive ones.
    fn varint(&mut self) -> Result<i64> {
        let mut raw = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            raw |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
            }
        }
        bail!("a number that does not end")
    }

    /// Bytes behind their length; a negative one is null.
    fn bytes(&mut self) -> Result<Option<&'a [u8]>> {
        match usize::try_from(self.varint()?) {
            Ok(length) => self.take(length).map(Some),
            Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::{data, marker};
    use super::*;

    #[test]
    fn batches_are_read_as_they_were_written() {
        let log = [data(7, 2, 5, &[(b"k", b"v", Some(b"s"))]), marker(7, 2, 6, true)].concat();
        let read: Vec<_> = batches(&log).collect::<Result<_>>().expect("both are whole");
        let [data, marker] = &read[..] else { panic!("{read:?}") };
        assert_eq!((data.producer, data.epoch, data.transactional), (7, 2, true));
        assert_eq!((data.control, marker.control), (false, true));
        let record = &data.records[0];
        assert_eq!(
            (record.offset, record.key, record.value),
            (5, Some(&b"k"[..]), Some(&b"v"[..]))
        );
        assert_eq!(record.headers, [(&b"tidegate-source"[..], Some(&b"s"[..]))]);
        assert_eq!(marker.records[0].offset, 6);
    }

    #[test]
    fn what_is_cut_off_is_an_error_and_not_an_end() {
        let log = data(7, 2, 5, &[(b"key", b"value", None)]);
        for length in 1..log.len() {
            assert!(batches(&log[..length]).any(|batch| batch.is_err()), "{length}");
        }
    }

    #[test]
    fn numbers_are_read_in_their_short_form() {
        for (bytes, number) in
            [(&[0][..], 0), (&[1], -1), (&[2], 1), (&[0x7f], -64), (&[0x80, 1], 64)]
        {
            assert_eq!(Cursor(bytes).varint().expect("a number"), number);
        }
    }
}
