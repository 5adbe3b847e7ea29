"""A real server of the S3 protocol (moto's), in a process of its own: Delta Lake's calls hold Python's lock."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from botocore.exceptions import BotoCoreError

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Run the server with a bucket named `bucket`; yields what clients must know."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    options = KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true"}
    try:
        make_bucket(options)
        yield options
    finally:
        server.kill()
        server.wait()


def make_bucket(options: dict[str, str]) -> None:
    """Make the bucket, as soon as the server answers."""
    client = boto3.client(
        "s3",
        endpoint_url=options["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    for _ in range(600):
        try:
            client.create_bucket(Bucket="bucket")
            return
        except BotoCoreError:
            time.sleep(0.1)
    raise TimeoutError("moto's server does not answer")
