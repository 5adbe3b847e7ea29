from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from pipelines.answers import models
from pipelines.answers.models import GenerateConfig, load_models
from pipelines.encode import EncodeConfig
from pipelines.nights import encoders
from pipelines.nights.encoders import load_encoder


def test_both_jobs_share_one_encoder(encode_config: EncodeConfig, generate_config: GenerateConfig) -> None:
    assert load_models(generate_config).encoder is load_encoder(encode_config)


@pytest.mark.parametrize("load", [load_encoder, load_models])
def test_threads_that_ask_at_once_get_one_model(
    load: Callable[[GenerateConfig], object], generate_config: GenerateConfig
) -> None:
    encoders._loaded.cache_clear()
    models._loaded.cache_clear()
    start = Barrier(4)

    def ask(_: int) -> object:
        start.wait()
        return load(generate_config)

    with ThreadPoolExecutor(4) as threads:
        assert len({id(found) for found in threads.map(ask, range(4))}) == 1
