#!/usr/bin/env bash
# Run the tests of tests/pipelines/remote on a real Flink session cluster of this machine, and of nothing else.
#
#   PyPI: apache-flink-libraries ─▶ job manager, two task managers ─┐
#   Maven: beam-runners-flink-*-job-server ─▶ Beam's job server ────┴─▶ pytest tests/pipelines/remote -k flink
#
# Needs Java 17 and, the first time, a package index and Maven Central. FLINK_JOB_SERVER=/path/to/jar takes a jar that is
# here already. What is downloaded stays in build/flink and is compared with its hash.
set -euo pipefail
cd "$(dirname "$0")/../.."

BEAM=2.77.0            # the job server must be of the version of apache-beam in constraints.txt
FLINK=2.2.1            # one that this Beam supports: 1.19, 1.20, 2.0, 2.1, 2.2
FLINK_SHA256=eec27ffa86d01184de7f5ab668c479c83cdb75ebc7fba8091307da4f1a9d3348
ARTIFACT=beam-runners-flink-${FLINK%.*}-job-server
MAVEN=${MAVEN_REPOSITORY:-https://repo.maven.apache.org/maven2}
JAR_URL=$MAVEN/org/apache/beam/$ARTIFACT/$BEAM/$ARTIFACT-$BEAM.jar
HOME_OF_FLINK=build/flink/apache_flink_libraries-$FLINK
REST=18081 JOB=18099
PYTHON=${PYTHON:-.venv/bin/python}

started=()
trap 'kill "${started[@]}" 2>/dev/null || true' EXIT

in_background() { # log, command ...
    "${@:2}" >"build/flink/$1.log" 2>&1 &
    started+=($!)
}

wait_for() { # seconds, what, command ...
    for _ in $(seq "$1"); do "${@:3}" >/dev/null 2>&1 && return; sleep 1; done
    echo "$2 did not start: see build/flink/*.log" >&2
    exit 1
}

fetch_flink() {
    [ -d "$HOME_OF_FLINK" ] && return
    echo "apache-flink-libraries==$FLINK --hash=sha256:$FLINK_SHA256" >build/flink/requirements.txt
    "$PYTHON" -m pip download --disable-pip-version-check --no-deps --no-binary :all: --no-build-isolation \
        --require-hashes -r build/flink/requirements.txt -d build/flink
    tar -xzf "build/flink/apache_flink_libraries-$FLINK.tar.gz" -C build/flink
}

# The jar is compared with the SHA-512 that Maven Central publishes beside it.
fetch_job_server() {
    jar=${FLINK_JOB_SERVER:-build/flink/$ARTIFACT-$BEAM.jar}
    [ -f "$jar" ] && return
    answer=$(curl -sL -o "$jar.new" -w '%{http_code}' "$JAR_URL") || true
    if [ "$answer" != 200 ]; then
        rm -f "$jar.new"
        echo "no Beam job server: $JAR_URL answers $answer." >&2
        echo "Fetch $ARTIFACT $BEAM where it is served, and run: FLINK_JOB_SERVER=/path/to/jar make flink" >&2
        exit 1
    fi
    echo "$(curl -sfL "$JAR_URL.sha512" | cut -c1-128)  $jar.new" | sha512sum --check --quiet
    mv "$jar.new" "$jar"
}

start_cluster() {
    local settings=(
        -D jobmanager.rpc.address=localhost -D pekko.startup-timeout=120s -D rest.port=$REST -D rest.address=localhost
        -D jobmanager.memory.heap.size=512m -D taskmanager.numberOfTaskSlots=2 -D taskmanager.cpu.cores=1
        -D taskmanager.memory.task.heap.size=256m -D taskmanager.memory.task.off-heap.size=0
        -D taskmanager.memory.managed.size=128m -D taskmanager.memory.network.min=64m
        -D taskmanager.memory.network.max=64m -D taskmanager.memory.framework.heap.size=128m
        -D taskmanager.memory.framework.off-heap.size=128m -D taskmanager.memory.jvm-metaspace.size=256m
        -D taskmanager.memory.jvm-overhead.min=64m -D taskmanager.memory.jvm-overhead.max=64m
    )
    mkdir -p build/flink/conf && touch build/flink/conf/config.yaml
    local java=(java -Xmx512m -cp "$HOME_OF_FLINK/deps/lib/*")
    in_background job-manager "${java[@]}" org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint \
        --configDir build/flink/conf "${settings[@]}"
    for number in 1 2; do
        in_background "task-manager-$number" "${java[@]}" org.apache.flink.runtime.taskexecutor.TaskManagerRunner \
            --configDir build/flink/conf "${settings[@]}"
    done
    wait_for 120 "Flink's task managers" sh -c \
        "curl -sf localhost:$REST/overview | grep -q '\"taskmanagers\":2'"
    curl -sf "localhost:$REST/overview"; echo
}

mkdir -p build/flink
fetch_flink
start_cluster
fetch_job_server
in_background job-server java -Xmx512m -jar "$jar" --flink-master="localhost:$REST" --job-port=$JOB \
    --artifact-port=0 --expansion-port=0
wait_for 120 "Beam's job server" bash -c "exec 3<>/dev/tcp/localhost/$JOB"
FLINK_JOB_PORT=$JOB "$PYTHON" -m pytest -n 0 tests/pipelines/remote -k flink "$@"
