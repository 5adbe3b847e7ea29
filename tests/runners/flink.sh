#!/usr/bin/env bash
# Run the tests of tests/pipelines/remote on a real Flink session cluster of this machine, and of nothing else.
#
#   PyPI: apache-flink-libraries ─▶ job manager, two task managers ───────┐
#   Maven: beam-runners-flink-* and what it needs ─▶ Beam's job server ───┴─▶ pytest tests/pipelines/remote -k flink
#
# Needs Java 17, Maven and, the first time, a package index and Maven Central. FLINK_JOB_SERVER=/path/to/jar takes a job
# server that is here already. What is downloaded stays in build/flink and is compared with its hash.
set -euo pipefail
cd "$(dirname "$0")/../.."

FLINK=1.19.0
FLINK_SHA256=bb3115c1c63702f95c3f89d5d952e9d98e26fd35b980a265d139790a6ea2c2a2
BEAM=2.62.0            # of the job server, which speaks Beam's protocol with workers of any version
BEAM_SHA256=057a1bde2709d8e053eb67d46cb6255abf0238df745cd544821979c4d725130a  # of its jars in a row
HOME_OF_FLINK=build/flink/flink-$FLINK
REST=18081 JOB=18099
PYTHON=${PYTHON:-.venv/bin/python}

OPEN=()                # Flink serialises by reflection, which Java 17 allows only where it is told to
for package in io lang lang.reflect net nio text time util util.concurrent util.concurrent.atomic; do
    OPEN+=("--add-opens=java.base/java.$package=ALL-UNNAMED")
done

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
    mkdir -p "$HOME_OF_FLINK.new"
    tar -xzf build/flink/apache*flink*libraries-"$FLINK".tar.gz -C "$HOME_OF_FLINK.new" --strip-components 1
    mv "$HOME_OF_FLINK.new" "$HOME_OF_FLINK"
}

# Beam's own jar for this is these jars in one; a registry may have the parts without it.
fetch_job_server() {
    [ -n "${FLINK_JOB_SERVER:-}" ] || [ -d build/flink/job-server ] && return
    cat >build/flink/pom.xml <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>pplug</groupId> <artifactId>job-server</artifactId> <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.beam</groupId> <artifactId>beam-runners-flink-${FLINK%.*}</artifactId> <version>$BEAM</version>
    </dependency>
  </dependencies>
</project>
XML
    rm -rf build/flink/jars.new
    mvn -q -B -f build/flink/pom.xml org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$PWD/build/flink/jars.new"
    [ "$(LC_ALL=C sh -c "cat build/flink/jars.new/*.jar" | sha256sum | cut -c1-64)" = "$BEAM_SHA256" ] ||
        { echo "the jars of Beam's job server are others than those that were tested" >&2; exit 1; }
    mv build/flink/jars.new build/flink/job-server
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
    local java=(java "${OPEN[@]}" -Xmx512m -cp "$HOME_OF_FLINK/deps/lib/*")
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
in_background job-server java "${OPEN[@]}" -Xmx512m -cp "${FLINK_JOB_SERVER:-build/flink/job-server/*}" \
    org.apache.beam.runners.flink.FlinkJobServerDriver --flink-master="localhost:$REST" --job-port=$JOB \
    --artifact-port=0 --expansion-port=0
wait_for 120 "Beam's job server" bash -c "exec 3<>/dev/tcp/localhost/$JOB"
FLINK_JOB_PORT=$JOB "$PYTHON" -m pytest -n 0 tests/pipelines/remote -k flink "$@"
