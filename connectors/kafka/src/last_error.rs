//! What a client last said about its connections.

use std::sync::{Mutex, PoisonError};

use rdkafka::types::RDKafkaErrorCode as Code;

use crate::error::is_authentication;

/// The newest error of a client's connections, for the message of whoever gives up waiting. That no
/// broker is left follows from the others' refusal, and does not replace it.
#[derive(Debug, Default)]
pub(crate) struct LastError(Mutex<Option<(Code, String)>>);

impl LastError {
    pub(crate) fn note(&self, code: Code, text: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = last.as_ref().is_some_and(|(code, _)| is_authentication(*code));
        if !(refused && code == Code::AllBrokersDown) {
            *last = Some((code, text.to_string()));
        }
    }

    pub(crate) fn get(&self) -> Option<(Code, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_no_broker_is_left_does_not_hide_that_they_refused() {
        let last = LastError::default();
        assert_eq!(last.get(), None);
        last.note(Code::AllBrokersDown, "1/1 brokers are down");
        last.note(Code::Authentication, "SASL authentication failed");
        last.note(Code::AllBrokersDown, "1/1 brokers are down");
        assert_eq!(last.get().expect("noted").0, Code::Authentication);
        last.note(Code::BrokerTransportFailure, "connection refused");
        assert_eq!(last.get().expect("noted").0, Code::BrokerTransportFailure);
    }
}
