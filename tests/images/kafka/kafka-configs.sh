#!/bin/bash
# Kafka's tool for dynamic settings and users, where the official image has it.
exec java -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp '/opt/kafka/libs/*' kafka.admin.ConfigCommand "$@"
