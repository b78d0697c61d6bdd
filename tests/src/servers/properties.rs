//! The properties of a Kafka node, the same for a process and for a container.

use super::kafka::KafkaOptions;
use super::secure::Secure;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What every Kafka of the tests has in common, also those that the scripts start.
const COMMON: &str = include_str!("../../servers/kafka.properties");

/// The part a node plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Combined,
    Broker,
    Controller,
}

/// One node, as its listeners need to know it.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) role: Role,
    /// The address that its listeners bind: inside a container it must be every address.
    pub(super) bind: &'a str,
    /// The same number inside and outside of a container, because the broker tells it to its clients.
    pub(super) port: u16,
    /// The second listener, if the test wants one.
    pub(super) secure: Option<&'a Secure>,
    /// Where the controller listens, as this node reaches it.
    pub(super) controller: (&'a str, u16),
}

impl Role {
    /// The node's number. The broker has one of its own where it is a process of its own.
    pub(super) fn id(self) -> u32 {
        if self == Self::Broker { 2 } else { 1 }
    }
}

/// All properties of the node: the common ones, its own, and then the test's.
pub(super) fn properties(node: &Node<'_>, options: &KafkaOptions) -> BTreeMap<String, String> {
    let Node { bind, port, controller: (host, controller_port), .. } = *node;
    let mut all = common();
    let mut set = |name: &str, value: String| all.insert(name.into(), value);
    set("node.id", node.role.id().to_string());
    set("controller.quorum.voters", format!("1@{host}:{controller_port}"));
    set("controller.listener.names", "CONTROLLER".into());

    let controller = format!("CONTROLLER://{bind}:{controller_port}");
    if node.role == Role::Controller {
        set("process.roles", "controller".into());
        set("listeners", controller);
        set("listener.security.protocol.map", "CONTROLLER:PLAINTEXT".into());
    } else {
        let secure = |host: &str| {
            node.secure
                .map(|secure| format!(",SECURE://{host}:{}", secure.port()))
                .unwrap_or_default()
        };
        // Clients of a wire must be told its port, not the one behind it.
        let wires = |host: &str, end: fn(&(u16, u16)) -> u16| {
            let wires = options.wired.iter().enumerate();
            wires.map(|(i, ports)| format!(",WIRE{i}://{host}:{}", end(ports))).collect::<String>()
        };
        let clients = |host: &str, end| {
            format!("PLAINTEXT://{host}:{port}{}{}", secure(host), wires(host, end))
        };
        let listeners = clients(bind, |(behind, _)| *behind);
        let combined = node.role == Role::Combined;
        set("process.roles", if combined { "broker,controller" } else { "broker" }.into());
        set("listeners", if combined { format!("{listeners},{controller}") } else { listeners });
        set("advertised.listeners", clients("127.0.0.1", |(_, front)| *front));
        set("inter.broker.listener.name", "PLAINTEXT".into());
        set(
            "listener.security.protocol.map",
            (0..options.wired.len()).fold(
                "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL".into(),
                |map, i| format!("{map},WIRE{i}:PLAINTEXT"),
            ),
        );
        all.extend(node.secure.map(Secure::properties).unwrap_or_default());
    }
    all.extend(options.properties.iter().cloned());
    all
}

/// As the lines of a properties file.
pub(super) fn lines(properties: &BTreeMap<String, String>) -> String {
    properties.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name}={value}");
        text
    })
}

fn common() -> BTreeMap<String, String> {
    let settings =
        COMMON.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    settings
        .map(|line| line.split_once('=').expect("every line of kafka.properties is name=value"))
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}
