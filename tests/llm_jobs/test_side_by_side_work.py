"""Parts of a queue are answered side by side: nothing is lost, nothing depends on it."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prepared_requests import prepared

from llm_jobs.engine.causal import queues_of, side_by_side

HEAD = 1
prompts = st.tuples(st.lists(st.integers(0, 3), min_size=HEAD, max_size=4), st.booleans())


@given(st.lists(prompts, max_size=30), st.integers(1, 4))
def test_every_request_is_in_one_queue_and_equal_prompts_are_in_the_same(
    found: list[tuple[list[int], bool]], most: int
) -> None:
    requests = [
        prepared(before, (1,), choices=((5,), (6,)) if is_closed else (), limit=3) for before, is_closed in found
    ]
    queues = queues_of(requests, HEAD, most)
    assert len(queues) <= most
    assert all(queues)
    queue_of = {request: at for at, queue in enumerate(queues) for request in queue}
    assert set(queue_of) == set(requests)
    assert sum(map(len, queues)) == len(requests)
    for one in requests:
        for other in requests:
            if len(one.parts.before) > HEAD and one.parts.before == other.parts.before:
                assert queue_of[one] == queue_of[other]


def test_parts_run_at_the_same_time_on_one_thread_each_and_come_back_in_order() -> None:
    threads = torch.get_num_threads()
    meeting = threading.Barrier(3, timeout=20)

    def work(part: int) -> tuple[int, int, bool]:
        meeting.wait()
        return part, torch.get_num_threads(), torch.is_grad_enabled()

    assert side_by_side(work, [7, 8, 9]) == [(7, 1, False), (8, 1, False), (9, 1, False)]
    assert torch.get_num_threads() == threads


def test_a_failure_is_told_and_the_threads_are_given_back() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 // part, [1, 0])
    assert torch.get_num_threads() == threads


def test_one_part_keeps_all_threads() -> None:
    assert side_by_side(lambda part: (part, torch.get_num_threads()), ["all"]) == [("all", torch.get_num_threads())]
    assert side_by_side(lambda part: part, []) == []
