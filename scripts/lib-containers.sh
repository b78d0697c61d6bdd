# shellcheck shell=bash disable=SC2154
# A container engine for the tests: is there one, has it the images, and the two shared servers in it.
# Sourced after lib.sh and lib-servers.sh.

KAFKA_IMAGE=${TIDEGATE_KAFKA_IMAGE:-apache/kafka:$KAFKA_VERSION}
POSTGRES_IMAGE=${TIDEGATE_POSTGRES_IMAGE:-postgres:17}
# On every container of ours, also those that tests start by themselves (tests/src/servers/containers.rs).
LABEL=tidegate.tests

# ---- the engine ------------------------------------------------------------------------------

engine_answers() { have docker && timeout 10 docker info >/dev/null 2>&1; }

# engine_up STATE: starts an engine by hand where none answers. Only root can.
engine_up() {
  local state=$1 i
  if engine_answers; then return; fi
  [ "$(id -u)" = 0 ] || die "no container engine answers, and only root can start one"
  need containers
  mkdir -p "$state/docker"
  launch "$state" dockerd dockerd --data-root "${TIDEGATE_DOCKER_DATA:-$cache/docker}" --exec-root "$state/docker" \
    --pidfile "$state/docker/dockerd.pid" --host unix:///var/run/docker.sock --log-level warn
  for ((i = 0; i < 300; i++)); do
    if engine_answers; then say "started a container engine"; return; fi
    running "$state" dockerd >/dev/null || break
    sleep 0.1
  done
  tail -n 20 "$state/dockerd.log" >&2
  die "the container engine did not start: $state/dockerd.log"
}

# Ends the engine if it is ours. It leaves its data directory mounted on itself.
engine_down() {
  running "$1" dockerd >/dev/null || return 0
  end "$1" dockerd TERM
  while umount "${TIDEGATE_DOCKER_DATA:-$cache/docker}" 2>/dev/null; do :; done
}

# ---- images ----------------------------------------------------------------------------------

image_here() { docker image inspect "$1" >/dev/null 2>&1; }

# Both images are here, or a registry gives them.
images_here() {
  local image
  for image in "$KAFKA_IMAGE" "$POSTGRES_IMAGE"; do
    image_here "$image" || timeout 300 docker pull -q "$image" >/dev/null 2>&1 || return
  done
}

# The same out of this machine's own files.
images_made() {
  need kafka postgres
  KAFKA_IMAGE=$("$root/tests/images/build" kafka)
  POSTGRES_IMAGE=$("$root/tests/images/build" postgres)
}

# ---- the shared servers ----------------------------------------------------------------------

# start_shared_containers STATE: both servers; their ports and the environment file as for processes.
start_shared_containers() {
  local state=$1 broker postgres variables=()
  take_port; broker=$port
  take_port; postgres=$port
  mapfile -t variables < <(kafka_variables "$broker")
  docker run -d --label $LABEL=yes -p "127.0.0.1:$broker:$broker" "${variables[@]/#/--env=}" "$KAFKA_IMAGE" >"$state/kafka.container"
  docker run -d --label $LABEL=yes -p "127.0.0.1:$postgres:5432" \
    -e POSTGRES_USER=tidegate -e POSTGRES_PASSWORD=tidegate -e POSTGRES_DB=postgres -e POSTGRES_INITDB_ARGS=--no-sync \
    "$POSTGRES_IMAGE" postgres -c max_connections=200 >"$state/postgres.container"
  container_ready "$state" kafka kafka_said_so "$(cat "$state/kafka.container")"
  # By TCP: while the image initialises, its server listens on the Unix socket only.
  container_ready "$state" postgres docker exec "$(cat "$state/postgres.container")" pg_isready -q -h 127.0.0.1
  shared_addresses "$state" "$broker" "$postgres"
}

kafka_said_so() { docker logs "$1" 2>&1 | grep 'Kafka Server started'; }

# container_ready STATE NAME COMMAND…
container_ready() {
  local id name=$2 i
  id=$(cat "$1/$2.container")
  shift 2
  for ((i = 0; i < 600; i++)); do
    if "$@" >/dev/null 2>&1; then return; fi
    [ "$(docker inspect -f '{{.State.Running}}' "$id")" = true ] || break
    sleep 0.2
  done
  docker logs "$id" 2>&1 | tail -n 20 >&2
  die "the container of $name did not start"
}

# The properties as the image takes them: KAFKA_, capitals, underscores for dots.
kafka_variables() {
  local line name
  {
    sed '/^#/d;/^$/d' "$root/tests/servers/kafka.properties"
    cat <<END
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://:$1,CONTROLLER://:9093
advertised.listeners=PLAINTEXT://127.0.0.1:$1
inter.broker.listener.name=PLAINTEXT
controller.quorum.voters=1@localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
END
  } | while IFS= read -r line; do
    name=${line%%=*}
    name=${name//./_}
    echo "KAFKA_${name^^}=${line#*=}"
  done
  echo 'KAFKA_HEAP_OPTS=-Xmx512m'
  echo 'KAFKA_JVM_PERFORMANCE_OPTS=-XX:+UseSerialGC -XX:TieredStopAtLevel=1'
}

# Removes every container of the tests, also what a killed one left. Networks cannot go before their containers.
sweep() {
  docker ps -aq --filter label=$LABEL | xargs -r docker rm -fv >/dev/null 2>&1 || true
  docker network ls -q --filter name=tidegate-tests- | xargs -r docker network rm >/dev/null 2>&1 || true
}
