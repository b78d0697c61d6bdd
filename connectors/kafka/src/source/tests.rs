use super::*;

fn context() -> SourceContext {
    SourceContext {
        group: "g".into(),
        instance: None,
        drain_max: Duration::from_secs(30),
        claim_max: Duration::from_secs(30),
        start_max: Duration::from_secs(1),
    }
}

fn source() -> KafkaSource {
    Kafka::connect("localhost:9092").source("quakes")
}

fn configured(source: &KafkaSource) -> Result<rdkafka::ClientConfig, Error> {
    configured_in(source, &context())
}

fn configured_in(
    source: &KafkaSource,
    context: &SourceContext,
) -> Result<rdkafka::ClientConfig, Error> {
    source.options.config(&source.kafka, &source.subscription, context)
}

fn refused(source: &KafkaSource, setting: &str) {
    let error = configured(source).unwrap_err();
    assert!(error.is_configuration(), "{error}");
    assert!(error.to_string().starts_with(&format!("{setting}: ")), "{error}");
}

#[test]
fn topics_are_one_name_or_several() {
    let names = |source: KafkaSource| match source.subscription {
        Subscription::Topics(names) => names,
        Subscription::Pattern(_) => panic!("topics were named"),
    };
    let kafka = Kafka::connect("localhost:9092");
    assert_eq!(names(kafka.source("a")), ["a"]);
    assert_eq!(names(kafka.source(["a", "b"])), ["a", "b"]);
    assert_eq!(names(kafka.source(vec!["a".to_string()])), ["a"]);
    assert_eq!(names(kafka.source(&["a", "b"][..])), ["a", "b"]);
}

#[test]
fn the_settings_of_the_guarantee_are_always_set() {
    let config = configured(&source()).unwrap();
    for (key, value) in [
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("isolation.level", "read_committed"),
        ("auto.offset.reset", "error"),
        ("check.crcs", "true"),
        ("group.id", "g"),
    ] {
        assert_eq!(config.get(key), Some(value), "{key}");
    }
}

#[test]
fn a_rebalance_must_fit_into_the_poll_interval() {
    refused(&source().max_poll_interval(Duration::from_secs(60)), "max_poll_interval");
    let fits = source().max_poll_interval(Duration::from_secs(61));
    configured(&fits.session_timeout(Duration::from_secs(10))).unwrap();
}

#[test]
fn zero_bounds_are_refused() {
    refused(&source().fetch_min_bytes(0), "fetch_min_bytes");
    refused(&source().records_per_fetch(0), "records_per_fetch");
    refused(&source().heartbeat_interval(Duration::ZERO), "heartbeat_interval");
}

#[test]
fn the_broker_owns_session_and_heartbeat_under_its_own_protocol() {
    let consumer = || source().group_protocol(GroupProtocol::Consumer);
    refused(&consumer().session_timeout(Duration::from_secs(10)), "session_timeout");
    refused(&consumer().heartbeat_interval(Duration::from_secs(1)), "heartbeat_interval");
    let config = configured(&consumer()).unwrap();
    assert_eq!(config.get("group.protocol"), Some("consumer"));
    assert_eq!(config.get("session.timeout.ms"), None);
}

#[test]
fn a_group_a_topic_and_an_anchored_pattern_are_needed() {
    let mut nameless = context();
    nameless.group.clear();
    let error = configured_in(&source(), &nameless).unwrap_err();
    assert!(error.to_string().starts_with("group: "), "{error}");
    let kafka = Kafka::connect("localhost:9092");
    refused(&kafka.source(Vec::<String>::new()), "source");
    refused(&kafka.source("no such/name"), "source");
    refused(&kafka.source_pattern("orders-.*"), "source_pattern");
}

#[test]
fn a_forbidden_setting_is_reported_when_the_source_opens() {
    refused(&source().set("enable.auto.commit", "true"), "enable.auto.commit");
    refused(&source().set("fetch.max.byte", "1"), "fetch.max.byte");
}

#[tokio::test]
async fn a_value_librdkafka_does_not_take_names_its_setting() {
    let (events, _receiver) = EventSender::channel();
    let error = source().set("fetch.max.bytes", "many").open(&context(), events).await.unwrap_err();
    match error {
        SourceError::Stop(error) => {
            assert!(error.is_configuration(), "{error}");
            assert!(error.to_string().starts_with("fetch.max.bytes: "), "{error}");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_unreachable_broker_ends_the_start_at_its_deadline() {
    let (events, _receiver) = EventSender::channel();
    let mut source = Kafka::connect("127.0.0.1:1").source("quakes");
    match source.open(&context(), events).await.unwrap_err() {
        SourceError::Stop(error) => assert!(error.is_deadline(), "{error}"),
        other => panic!("{other}"),
    }
}
