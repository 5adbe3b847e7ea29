"""How many requests a night makes of an object store: counted by a server of the S3 protocol, at two sizes of shards.

    made-up users ─▶ ingest ─▶ full night ─▶ 1% new items ─▶ the next night ─▶ tasks ─▶ check        requests of each

    python tests/benchmarks/store_requests.py --users 2000

What does not depend on the number of shards is paid once a night; the rest is told for each shard.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from scale import ROOT
from scaling.stand_ins import write_plug
from scaling.users import Users

COUNTS = "/benchmark-counts"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
WAREHOUSE = "s3://bucket/warehouse"


def serve(port: int) -> None:
    """Answer as S3 does, and at COUNTS with the requests of each method so far."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    counts = Counter[str]()
    moto: Any = DomainDispatcherApplication(create_backend_app)

    def counting(environment: dict[str, Any], start_response: Any) -> Any:
        if environment["PATH_INFO"] == COUNTS:
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(counts).encode()]
        is_list = "list-type" in environment.get("QUERY_STRING", "")
        counts["LIST" if is_list else environment["REQUEST_METHOD"]] += 1
        return moto(environment, start_response)

    run_simple("127.0.0.1", port, counting, threaded=True)


@contextmanager
def server(port: int) -> Iterator[dict[str, str]]:
    """Run the server in a process of its own; yields what clients must know."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(port)], **quiet)
    url = f"http://127.0.0.1:{port}"
    try:
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="test",
                              aws_secret_access_key="test")  # fmt: skip
        while process.poll() is None:
            try:
                client.create_bucket(Bucket="bucket")
                break
            except Exception:  # it has not begun
                continue
        yield KEYS | {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true"}
    finally:
        process.kill()
        process.wait()


def requests_so_far(options: dict[str, str]) -> Counter[str]:
    """The requests of each method."""
    with urllib.request.urlopen(options["AWS_ENDPOINT_URL"] + COUNTS) as answer:
        return Counter(json.loads(answer.read()))


def run(options: dict[str, str], *arguments: str) -> Counter[str]:
    """Run a command line with the stand-ins; returns the requests that it made."""
    before = requests_so_far(options)
    script = (
        "import sys; from scaling.stand_ins import stand_in; stand_in(); from pipelines.cli import main; "
        "raise SystemExit(main(sys.argv[1:]))"
    )
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    command = [sys.executable, "-c", script, *arguments, "--warehouse", WAREHOUSE]
    environment = os.environ | options | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return requests_so_far(options) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2_000, help="20 items each: two shards for each thousand")
    parser.add_argument("--port", type=int, default=18_200)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve)
    users = Users(arguments.users, 20)
    ds = [("--ds", users.night(number).isoformat()) for number in range(2)]
    models = ("--dtype", "float32")
    with tempfile.TemporaryDirectory() as scratch, server(arguments.port) as options:
        folder = Path(scratch)
        write_plug(folder / "plug")
        for number in range(2):
            users.write_items(folder / f"{number}.jsonl", number)
        users.write_tasks(folder / "tasks.jsonl", 1, 1_000)
        answering = (*models, "--llm-dtype", "float32", "--plug", str(folder / "plug"))
        steps = {
            "ingest, full": ("ingest", "histories", str(folder / "0.jsonl"), *ds[0]),
            "night, full": ("encode", *ds[0], *models),
            "the same night again": ("encode", *ds[0], *models),
            "ingest, 1% new": ("ingest", "histories", str(folder / "1.jsonl"), *ds[1]),
            "night, 1% new": ("encode", *ds[1], *models),
            "ingest, tasks": ("ingest", "tasks", str(folder / "tasks.jsonl"), *ds[1]),
            "1,000 tasks": ("generate", *ds[1], *answering),
            "check of a night": ("check", *ds[1]),
        }
        methods = ("PUT", "LIST", "GET", "HEAD", "POST", "DELETE")
        sys.stdout.write(f"{users.item_count:,} items\n\n| step | {' | '.join(methods)} |\n{'|---' * 7}|\n")
        for name, step in steps.items():
            found = run(options, *step)
            sys.stdout.write(f"| {name} | {' | '.join(str(found[method]) for method in methods)} |\n")
            sys.stdout.flush()
    return None


if __name__ == "__main__":
    main()
