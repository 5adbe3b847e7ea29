from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from pipelines.answers.models import GenerateConfig, load_models
from pipelines.encode import EncodeConfig
from pipelines.nights.loading import load_once
from pipelines.personas.encoders import load_encoder


def test_both_jobs_share_one_encoder(encode_config: EncodeConfig, generate_config: GenerateConfig) -> None:
    assert load_models(generate_config).encoder is load_encoder(encode_config)


def test_threads_that_ask_at_once_get_one_model() -> None:
    start, loaded = Barrier(4), list[str]()

    @load_once
    def load(name: str) -> object:
        loaded.append(name)
        return object()

    def ask(_: int) -> object:
        start.wait()
        return load("minilm")

    with ThreadPoolExecutor(4) as threads:
        assert len({id(found) for found in threads.map(ask, range(4))}) == 1
    assert loaded == ["minilm"]
    load("bge")
    load("minilm")
    assert loaded == ["minilm", "bge", "minilm"], "one is kept"
