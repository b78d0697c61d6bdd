//! A line of Apache's combined format.

use std::fmt;

use chrono::{DateTime, Utc};

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    pub(crate) client: String,
    pub(crate) at: DateTime<Utc>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: i32,
    /// None was sent, for example because nothing had changed.
    pub(crate) bytes: Option<i64>,
    pub(crate) agent: Option<String>,
}

/// What is odd about a line. It is stored with the dead letter, and says nothing of the line's
/// content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Odd(&'static str);

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Odd {}

/// Reads one line:
/// `client ident user [time] "method path protocol" status bytes "referrer" "agent"`.
pub(crate) fn parse(line: &str) -> Result<Request, Odd> {
    let mut rest = line;
    let client = upto(&mut rest, " ").ok_or(Odd("there is no client"))?;
    let _ident = upto(&mut rest, " ").ok_or(Odd("there is no ident"))?;
    let _user = upto(&mut rest, " [").ok_or(Odd("there is no user"))?;
    let time = upto(&mut rest, "] \"").ok_or(Odd("there is no time"))?;
    let request = upto(&mut rest, "\" ").ok_or(Odd("there is no request"))?;
    let status = upto(&mut rest, " ").ok_or(Odd("there is no status"))?;
    let bytes = upto(&mut rest, " \"").ok_or(Odd("there is no size"))?;
    let referrer = upto(&mut rest, "\" \"").ok_or(Odd("there is no referrer"))?;
    let agent = rest.strip_suffix('"').ok_or(Odd("the line is cut off in the agent"))?;
    let mut words = request.split(' ');
    let (Some(method), Some(path), Some(_protocol), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Odd("the request is not method, path and protocol"));
    };
    if !is_encoded(path) {
        return Err(Odd("the path has a % without two hexadecimal digits"));
    }
    if referrer.contains('\\') {
        return Err(Odd("the referrer has bytes that no URL may have"));
    }
    let at = DateTime::parse_from_str(time, "%d/%b/%Y:%H:%M:%S %z");
    Ok(Request {
        client: client.to_owned(),
        at: at.map_err(|_| Odd("the time is none"))?.to_utc(),
        method: method.to_owned(),
        path: path.to_owned(),
        status: status.parse().map_err(|_| Odd("the status is no number"))?,
        bytes: match bytes {
            "-" => None,
            number => Some(number.parse().map_err(|_| Odd("the size is no number"))?),
        },
        agent: (agent != "-").then(|| agent.to_owned()),
    })
}

/// What comes before the mark; the rest begins behind it.
fn upto<'a>(rest: &mut &'a str, mark: &str) -> Option<&'a str> {
    let (before, behind) = rest.split_once(mark)?;
    *rest = behind;
    Some(before)
}

/// Whether each `%` is followed by two hexadecimal digits.
fn is_encoded(path: &str) -> bool {
    path.split('%').skip(1).all(|behind| {
        behind.len() >= 2 && behind.bytes().take(2).all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET /a%20b HTTP/1.1" 200 203023 "http://h/" "Agent 1""#;

    #[test]
    fn a_line_of_the_format_is_a_request() {
        let request = parse(LINE).expect("it is in order");
        assert_eq!(request.client, "192.0.2.7");
        assert_eq!(request.at.to_rfc3339(), "2015-05-17T10:05:03+00:00");
        assert_eq!((&*request.method, &*request.path), ("GET", "/a%20b"));
        assert_eq!((request.status, request.bytes), (200, Some(203_023)));
        assert_eq!(request.agent.as_deref(), Some("Agent 1"));
        let unchanged = parse(&LINE.replace("200 203023", "304 -")).expect("it is in order");
        assert_eq!(unchanged.bytes, None);
    }

    #[test]
    fn what_is_odd_about_a_line_is_said() {
        for (from, to, said) in [
            (" 1\"", " 1", "cut off"),
            ("%20", "%", "hexadecimal"),
            ("%20", "%2x", "hexadecimal"),
            ("http://h/", r"http://\xe4/", "no URL"),
            ("GET /", "/", "method, path and protocol"),
            ("17/May", "32/May", "time"),
            ("200 2", "2OO 2", "status"),
            ("203023", "many", "size"),
            ("192.0.2.7 - - [", "", "no user"),
        ] {
            let odd = parse(&LINE.replacen(from, to, 1)).expect_err(to);
            assert!(odd.to_string().contains(said), "{to:?}: {odd}");
        }
    }
}
