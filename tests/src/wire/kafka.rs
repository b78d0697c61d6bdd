//! A broker's protocol: frames with a length in front, requests and answers tied by a number.

use super::{Answer, Request, Speech, What};

/// Numbers of requests (Kafka protocol guide, "API keys").
pub mod api {
    /// Records.
    pub const PRODUCE: i16 = 0;
    /// Committed offsets.
    pub const OFFSET_FETCH: i16 = 9;
    /// A producer's number and epoch.
    pub const INIT_PRODUCER_ID: i16 = 22;
    /// A partition joins a transaction.
    pub const ADD_PARTITIONS_TO_TXN: i16 = 24;
    /// A group joins a transaction.
    pub const ADD_OFFSETS_TO_TXN: i16 = 25;
    /// Commit or abort.
    pub const END_TXN: i16 = 26;
    /// Offsets of a group, in a transaction.
    pub const TXN_OFFSET_COMMIT: i16 = 28;
}

/// Cuts both ways into frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    there: Vec<u8>,
    back: Vec<u8>,
}

/// Takes complete frames off the front.
fn frames(buffer: &mut Vec<u8>, bytes: &[u8]) -> Vec<Vec<u8>> {
    buffer.extend_from_slice(bytes);
    let mut frames = Vec::new();
    while let Some(length) = number(buffer, 0) {
        let end = 4 + usize::try_from(length).unwrap_or_default();
        if buffer.len() < end {
            break;
        }
        frames.push(buffer.drain(..end).collect());
    }
    frames
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl Speech for Frames {
    fn requests(&mut self, bytes: &[u8]) -> Vec<Request> {
        frames(&mut self.there, bytes).into_iter().map(request).collect()
    }

    fn answers(&mut self, bytes: &[u8]) -> Vec<Answer> {
        let answer = |bytes: Vec<u8>| Answer { ends: number(&bytes, 4).map(u64::from), bytes };
        frames(&mut self.back, bytes).into_iter().map(answer).collect()
    }
}

fn request(bytes: Vec<u8>) -> Request {
    let api = bytes.get(4..6).map_or(-1, |api| i16::from_be_bytes([api[0], api[1]]));
    // The versions that librdkafka sends (0 and 1) end with the flag.
    let commits = api == api::END_TXN && bytes.last() == Some(&1);
    let number = number(&bytes, 8).map_or(0, u64::from);
    Request { bytes, number, what: What::Kafka { api, commits } }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of a transaction, version 1, header version 1.
    fn end_txn(commits: u8, correlation: u32) -> Vec<u8> {
        let mut body = vec![0, 26, 0, 1];
        body.extend(correlation.to_be_bytes());
        body.extend([0, 1, b'c', 0, 2, b'i', b'd']);
        body.extend(7_i64.to_be_bytes());
        body.extend([0, 3, commits]);
        [u32::try_from(body.len()).unwrap().to_be_bytes().to_vec(), body].concat()
    }

    #[test]
    fn frames_are_found_however_the_bytes_arrive() {
        let all = [end_txn(1, 5), end_txn(0, 6)].concat();
        for size in 1..all.len() {
            let mut speech = Frames::default();
            let found: Vec<_> = all.chunks(size).flat_map(|bytes| speech.requests(bytes)).collect();
            let said: Vec<_> = found.iter().map(|r| (r.number, r.what.clone())).collect();
            let what = |commits| What::Kafka { api: api::END_TXN, commits };
            assert_eq!(said, [(5, what(true)), (6, what(false))]);
            assert_eq!(found.into_iter().flat_map(|r| r.bytes).collect::<Vec<_>>(), all);
        }
    }

    #[test]
    fn an_answer_names_its_request() {
        let answer = [&[0, 0, 0, 6][..], &9_u32.to_be_bytes(), &[1, 2]].concat();
        let mut speech = Frames::default();
        let ends: Vec<_> = speech.answers(&answer).into_iter().map(|answer| answer.ends).collect();
        assert_eq!(ends, [Some(9)]);
    }
}
