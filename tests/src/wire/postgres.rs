//! PostgreSQL's protocol, version 3: messages with a letter and a length in front. What is sent up to a Sync, or one
//! simple query, is one request; the server's ReadyForQuery ends its answer.

use std::collections::HashMap;

use super::{Answer, Request, Speech, What};

/// The request for TLS has no letter, like the first message of a session; its answer is one byte.
const TLS_WANTED: u32 = 80_877_103;

/// Cuts both ways into messages, and knows what the statements say.
#[derive(Debug, Default)]
pub(super) struct Messages {
    there: Vec<u8>,
    back: Vec<u8>,
    began: bool,
    /// Bytes to come that are no message: answers to requests for TLS.
    bare: usize,
    asked: u64,
    answered: u64,
    statements: HashMap<String, String>,
    portals: HashMap<String, String>,
    /// What belongs to the request that is not complete.
    open: Vec<u8>,
    sql: String,
    /// Statements since the last BEGIN.
    transaction: Option<String>,
}

fn length(buffer: &[u8], at: usize) -> Option<usize> {
    let bytes = buffer.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(bytes)).ok()
}

/// A text that ends with a zero byte, and what follows.
fn text(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let rest = bytes.get(end + 1..).unwrap_or_default();
    (String::from_utf8_lossy(&bytes[..end]).into_owned(), rest)
}

impl Messages {
    /// Takes the next complete message off the front; `bare` ones have no letter.
    fn next(buffer: &mut Vec<u8>, bare: bool) -> Option<Vec<u8>> {
        let letter = usize::from(!bare);
        let end = letter + length(buffer, letter)?;
        (buffer.len() >= end).then(|| buffer.drain(..end).collect())
    }

    fn begin(&mut self, bytes: Vec<u8>) -> Request {
        if length(&bytes, 4) == usize::try_from(TLS_WANTED).ok() {
            self.bare += 1;
        } else {
            self.began = true;
            self.asked += 1;
        }
        Request { bytes, number: self.asked, what: What::Other }
    }

    /// Learns from a message; whether it completes a request.
    fn learn(&mut self, message: &[u8]) -> bool {
        let body = &message[5..];
        match message[0] {
            b'P' => {
                let (name, rest) = text(body);
                self.statements.insert(name, text(rest).0);
                false
            }
            b'B' => {
                let (portal, rest) = text(body);
                let sql = self.statements.get(&text(rest).0).cloned().unwrap_or_default();
                self.portals.insert(portal, sql);
                false
            }
            b'E' => {
                let sql = self.portals.get(&text(body).0).cloned().unwrap_or_default();
                self.executes(&sql);
                false
            }
            b'Q' => {
                self.executes(&text(body).0);
                true
            }
            b'D' | b'C' => false,
            // Sync; or a flush, data of a COPY, a password, the end, which wait for nothing.
            _ => true,
        }
    }

    fn executes(&mut self, sql: &str) {
        self.sql.push_str(sql);
        if sql.trim_start().get(..5).is_some_and(|word| word.eq_ignore_ascii_case("begin")) {
            self.transaction = Some(String::new());
        } else if let Some(transaction) = &mut self.transaction {
            transaction.push_str(sql);
            transaction.push('\n');
        }
    }

    fn complete(&mut self, answered: bool) -> Request {
        let sql = std::mem::take(&mut self.sql);
        let what = match sql.is_empty() {
            true => What::Other,
            false => {
                let transaction = self.transaction.clone().unwrap_or_else(|| sql.clone());
                What::Postgres { sql, transaction }
            }
        };
        if let What::Postgres { sql, .. } = &what
            && matches!(sql.trim(), "COMMIT" | "ROLLBACK")
        {
            self.transaction = None;
        }
        self.asked += u64::from(answered);
        Request { bytes: std::mem::take(&mut self.open), number: self.asked, what }
    }
}

impl Speech for Messages {
    fn requests(&mut self, bytes: &[u8]) -> Vec<Request> {
        self.there.extend_from_slice(bytes);
        let mut requests = Vec::new();
        while let Some(message) = Self::next(&mut self.there, !self.began) {
            if !self.began {
                requests.push(self.begin(message));
                continue;
            }
            let complete = self.learn(&message);
            let answered = matches!(message[0], b'Q' | b'S');
            self.open.extend(message);
            if complete {
                requests.push(self.complete(answered));
            }
        }
        requests
    }

    fn answers(&mut self, bytes: &[u8]) -> Vec<Answer> {
        self.back.extend_from_slice(bytes);
        let mut answers = Vec::new();
        while self.bare > 0 && !self.back.is_empty() {
            self.bare -= 1;
            answers.push(Answer { bytes: self.back.drain(..1).collect(), ends: None });
        }
        while let Some(message) = Self::next(&mut self.back, false) {
            let ready = message[0] == b'Z';
            self.answered += u64::from(ready);
            answers.push(Answer { bytes: message, ends: ready.then_some(self.answered) });
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(letter: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[letter], &length.to_be_bytes()[..], body].concat()
    }

    fn session() -> Messages {
        let mut speech = Messages::default();
        let start = [&9_u32.to_be_bytes()[..], &196_608_u32.to_be_bytes(), &[0]].concat();
        assert_eq!(speech.requests(&start).len(), 1);
        speech
    }

    fn run(statement: &str) -> Vec<u8> {
        let bind = [&[0], statement.as_bytes(), &[0; 7]].concat();
        [message(b'B', &bind), message(b'E', &[0; 5]), message(b'S', &[])].concat()
    }

    #[test]
    fn a_commit_of_results_is_known_in_both_forms() {
        let mut speech = session();
        let one =
            b"s1\0WITH moved AS (UPDATE progress SET next_offset = 1) INSERT INTO copied\0\0\0";
        let prepared = [message(b'P', one), message(b'S', &[])].concat();
        assert_eq!(speech.requests(&prepared)[0].what, What::Other);
        let said = speech.requests(&run("s1"));
        assert!(said[0].what.commits_into("copied"), "{said:?}");
        assert!(!said[0].what.commits_into("else"));

        let steps = [
            "BEGIN\0",
            "COPY copied FROM STDIN\0",
            "UPDATE progress SET next_offset\0",
            "COMMIT\0",
        ];
        let said = steps.map(|sql| speech.requests(&message(b'Q', sql.as_bytes())).remove(0).what);
        let commits = said.map(|what| what.commits_into("copied"));
        assert_eq!(commits, [false, false, false, true]);

        let other = ["BEGIN\0", "UPDATE progress SET next_offset\0", "COMMIT\0"];
        let said = other.map(|sql| speech.requests(&message(b'Q', sql.as_bytes())).remove(0).what);
        assert!(!said.iter().any(|what| what.commits_into("copied")), "without results");

        let setup = ["BEGIN\0", "CREATE TABLE IF NOT EXISTS copied\0", "COMMIT\0"];
        let said = setup.map(|sql| speech.requests(&message(b'Q', sql.as_bytes())).remove(0).what);
        assert!(!said.iter().any(|what| what.commits_into("copied")), "without progress");
    }

    #[test]
    fn answers_are_counted_from_the_start_of_the_session() {
        let mut speech = session();
        let numbers: Vec<u64> = [run("a"), run("b")]
            .iter()
            .flat_map(|b| speech.requests(b))
            .map(|r| r.number)
            .collect();
        assert_eq!(numbers, [2, 3]);
        let ready = message(b'Z', b"I");
        let ends: Vec<_> = speech.answers(&ready.repeat(3)).into_iter().map(|a| a.ends).collect();
        assert_eq!(ends, [Some(1), Some(2), Some(3)]);
    }
}
