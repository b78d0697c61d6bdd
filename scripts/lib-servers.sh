# shellcheck shell=bash disable=SC2154
# Kafka and PostgreSQL as local processes, for scripts/servers and scripts/test. Sourced after lib.sh.
#
# Every function works in a state directory that it is given. A process is remembered by its id and its start
# time, so that nothing but what was started here is ever ended.

KAFKA_VERSION=${TIDEGATE_KAFKA_VERSION:-4.3.1}
# The user that tests/src/servers/secure.rs connects as.
SCRAM_USER='name=tidegate,password=tidegate-secret'

# ---- Kafka's jars ----------------------------------------------------------------------------

# kafka_home: prints a directory with all that starting Kafka takes; makes it the first time.
#   java, java.args        the Java to use, and its flags and class path as an argument file
#   template/              a formatted storage directory of node 1, with the SCRAM user
kafka_home() {
  local java files=$root/tests/servers inputs home
  java=$(java_path) || die "no Java 17 or later: install default-jdk-headless"
  inputs=$({ cat "$files/pom.xml" "$files/log4j2.xml"; echo "$KAFKA_VERSION $SCRAM_USER $cache"; "$java" -version; } 2>&1 |
    sha256sum | cut -c1-8)
  home=$cache/kafka-$KAFKA_VERSION-$inputs
  if [ ! -e "$home/complete" ]; then
    mkdir -p "$home"
    (
      flock 9
      [ -e "$home/complete" ] || make_kafka_home "$home" "$java" >&2
    ) 9>"$home/lock"
  fi
  echo "$home"
}

make_kafka_home() {
  local home=$1 java=$2 files=$root/tests/servers jars
  have mvn || die "no Maven to fetch Kafka with: install maven"
  echo "fetching Kafka $KAFKA_VERSION by Maven, once, into $home"
  rm -rf "$home"/{jars,template,warm,classes.jsa}
  mvn -q -B -Dstyle.color=never -f "$files/pom.xml" -Dkafka.version="$KAFKA_VERSION" \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$home/jars" </dev/null || die "Maven could not fetch Kafka"
  cp "$files/log4j2.xml" "$home/"
  ln -sfn "$java" "$home/java"
  jars=("$home"/jars/*.jar)
  # C1 and the serial collector start fastest. The archive of parsed classes below halves what is left.
  cat >"$home/java.args" <<END
-Xmx512m
-XX:+UseSerialGC
-XX:TieredStopAtLevel=1
-XX:-UsePerfData
-Dlog4j2.configurationFile=$home/log4j2.xml
-cp $(IFS=:; echo "${jars[*]}")
END
  kafka_properties "$home/template" broker,controller 1 29092 29093 >"$home/template.properties"
  "$home/java" "@$home/java.args" kafka.tools.StorageTool format --cluster-id 5L6g3nShT-eMCtK--X86sw \
    -c "$home/template.properties" --add-scram "SCRAM-SHA-256=[$SCRAM_USER]" \
    --add-scram "SCRAM-SHA-512=[$SCRAM_USER]" >"$home/format.log" || { cat "$home/format.log"; die "Kafka could not format its storage"; }
  warm_kafka "$home"
  echo "-XX:SharedArchiveFile=$home/classes.jsa" >>"$home/java.args"
  : >"$home/complete"
}

# Starts Kafka once and lets Java write down the classes it loaded: every later start reads them from there.
warm_kafka() {
  local home=$1 dir=$1/warm java broker controller
  take_port; broker=$port
  take_port; controller=$port
  cp -r "$home/template" "$dir"
  kafka_properties "$dir" broker,controller 1 "$broker" "$controller" >"$home/warm.properties"
  "$home/java" -XX:ArchiveClassesAtExit="$home/classes.jsa" "@$home/java.args" kafka.Kafka "$home/warm.properties" >"$home/warm.log" 2>&1 &
  java=$!
  until grep -q 'Kafka Server started' "$home/warm.log"; do
    kill -0 $java 2>/dev/null || { tail -n 20 "$home/warm.log"; die "Kafka does not start"; }
    sleep 0.1
  done
  kill -TERM $java
  wait $java || true
  rm -rf "$dir"
}

# kafka_properties DIR ROLES NODE PORT CONTROLLER_PORT: server.properties on stdout.
kafka_properties() {
  cat "$root/tests/servers/kafka.properties"
  cat <<END
process.roles=$2
node.id=$3
log.dirs=$1
listeners=PLAINTEXT://127.0.0.1:$4,CONTROLLER://127.0.0.1:$5
controller.quorum.voters=1@127.0.0.1:$5
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
END
}

# ---- processes -------------------------------------------------------------------------------

# launch STATE NAME COMMAND…: in a session of its own, so that Ctrl-C at the terminal is not for it.
# With TIED=yes it dies with this script, however this script dies.
launch() {
  local state=$1 name=$2 tie=()
  shift 2
  [ "${TIED:-no}" = no ] || tie=(--pdeathsig KILL)
  setsid setpriv "${tie[@]}" "$@" >"$state/$name.log" 2>&1 </dev/null &
  echo "$! $(start_time $!)" >"$state/$name.pid"
}

start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# running STATE NAME: prints the process id.
running() {
  local pid started
  read -r pid started 2>/dev/null <"$1/$2.pid" && [ "$(start_time "$pid")" = "$started" ] &&
    ! grep -q ') Z ' "/proc/$pid/stat" 2>/dev/null && echo "$pid"
}

# end STATE NAME SIGNAL: asks with the signal, insists after ten seconds.
end() {
  local state=$1 name=$2 signal=$3 pid i
  pid=$(running "$state" "$name") || return 0
  kill -s "$signal" "$pid"
  for ((i = 0; i < 100; i++)); do
    running "$state" "$name" >/dev/null || { rm -f "$state/$name.pid"; return 0; }
    sleep 0.1
  done
  kill -s KILL "$pid"
  rm -f "$state/$name.pid"
}

# until_ready STATE NAME COMMAND…: repeats the command until it succeeds; the server's own words if it does not.
until_ready() {
  local state=$1 name=$2 i
  shift 2
  for ((i = 0; i < 1200; i++)); do
    if "$@" >/dev/null 2>&1; then return; fi
    running "$state" "$name" >/dev/null || break
    sleep 0.1
  done
  tail -n 20 "$state/$name.log" >&2
  die "$name did not start: $state/$name.log"
}

# ---- the two servers -------------------------------------------------------------------------

start_kafka() {
  local state=$1 broker=$2 controller=$3 home
  home=$(kafka_home)
  cp -r "$home/template" "$state/kafka"
  kafka_properties "$state/kafka" broker,controller 1 "$broker" "$controller" >"$state/kafka.properties"
  launch "$state" kafka "$home/java" "@$home/java.args" kafka.Kafka "$state/kafka.properties"
}

kafka_ready() { until_ready "$1" kafka grep -q 'Kafka Server started' "$1/kafka.log"; }

# PostgreSQL refuses to run as root: then it runs as the distribution's user for it.
start_postgres() {
  local state=$1 port=$2 bin as=()
  bin=$(postgres_bin) || die "no PostgreSQL server programs: install postgresql"
  mkdir -p "$state/postgres"
  echo tidegate >"$state/postgres/password"
  if [ "$(id -u)" = 0 ]; then
    as=(--reuid postgres --regid postgres --init-groups)
    chmod 755 "$state"
    chown -R postgres:postgres "$state/postgres"
  fi
  setpriv "${as[@]}" "$bin/initdb" -D "$state/postgres/data" --username tidegate --pwfile "$state/postgres/password" \
    --auth-local trust --auth-host scram-sha-256 --encoding UTF8 --locale C.UTF-8 --no-sync \
    >"$state/initdb.log" 2>&1 || { cat "$state/initdb.log" >&2; die "initdb failed"; }
  cat "$root/tests/servers/postgres.conf" >>"$state/postgres/data/postgresql.conf"
  launch "$state" postgres "${as[@]}" "$bin/postgres" -D "$state/postgres/data" \
    -c listen_addresses=127.0.0.1 -c port="$port" -c unix_socket_directories="$state/postgres"
}

postgres_ready() { until_ready "$1" postgres "$(postgres_bin)/psql" -w -h "$1/postgres" -p "$2" -U tidegate -d postgres -c 'select 1'; }

# start_both STATE KAFKA_PORT CONTROLLER_PORT POSTGRES_PORT: together, and back when both answer.
start_both() {
  start_kafka "$1" "$2" "$3"
  start_postgres "$1" "$4"
  kafka_ready "$1"
  postgres_ready "$1" "$4"
  shared_addresses "$1" "$2" "$4"
}

# shared_addresses STATE KAFKA_PORT POSTGRES_PORT: what tests and examples need to know, in STATE/env.
shared_addresses() {
  printf 'TIDEGATE_KAFKA=127.0.0.1:%s\nTIDEGATE_POSTGRES=postgres://tidegate:tidegate@127.0.0.1:%s/postgres\n' "$2" "$3" >"$1/env"
}

end_both() {
  end "$1" kafka TERM
  end "$1" postgres INT
}
