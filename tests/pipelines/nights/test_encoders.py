from pipelines.answers.models import GenerateConfig, load_models
from pipelines.encode import EncodeConfig
from pipelines.nights.encoders import load_encoder


def test_both_jobs_share_one_encoder(encode_config: EncodeConfig, generate_config: GenerateConfig) -> None:
    assert load_models(generate_config).encoder is load_encoder(encode_config)
