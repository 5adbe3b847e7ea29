import hashlib

from hypothesis import given
from hypothesis import strategies as st

from embedder.hashing import hash_share, text_sha256


@given(st.text())
def test_a_text_is_hashed_as_the_bytes_a_table_holds(text: str) -> None:
    assert text_sha256(text) == hashlib.sha256(text.encode()).hexdigest()


def test_half_characters_are_hashed_as_question_marks() -> None:
    assert text_sha256("a \ud800") == text_sha256("a ?")


def test_a_share_is_spread_evenly_and_stays() -> None:
    shares = sorted(hash_share(f"user {number}") for number in range(4000))
    assert shares[0] >= 0
    assert shares[-1] < 1
    assert max(abs(share - (rank + 0.5) / 4000) for rank, share in enumerate(shares)) < 0.03
    assert hash_share("") == int("e3b0c442", 16) / 2**32  # the sha256 of nothing
