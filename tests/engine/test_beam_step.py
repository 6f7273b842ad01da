"""A step of beam search: who goes on, from whom, and which ends count."""

import torch

from engine.decoding.beam_step import BeamStep, Proposals, beam_step, least_moved

EOT = 9
NO_END = float("-inf")


def step(
    scores: list[float],
    tokens: list[list[int]],
    logprobs: list[list[float]],
    first: bool = False,
    gains: list[list[float]] | None = None,
) -> BeamStep:
    added = gains or [[0.0] * len(row) for row in logprobs]
    proposals = Proposals(
        torch.tensor([tokens]),
        torch.tensor([logprobs]),
        torch.tensor([added], dtype=torch.float64),
    )
    return beam_step(torch.tensor([scores], dtype=torch.float64), proposals, EOT, first)


def test_the_likeliest_go_on_whichever_row_they_continue() -> None:
    found = step([-1.0, -3.0], [[4, 5, 6], [7, 8, 4]], [[-0.1, -0.5, -4.0], [-0.2, -5.0, -6.0]])
    assert found.tokens.tolist() == [[4, 5]]
    assert found.parents.tolist() == [[0, 0]]
    assert torch.allclose(found.scores, torch.tensor([[-1.1, -1.5]], dtype=torch.float64))
    assert found.end_logprobs.tolist() == [[NO_END, NO_END]]


def test_of_equals_the_first_row_goes_on() -> None:
    found = step([-1.0, -1.0], [[4, 5, 6], [7, 8, 4]], [[-0.5, -2.0, -4.0], [-0.5, -2.0, -6.0]])
    assert found.tokens.tolist() == [[4, 7]]
    assert found.parents.tolist() == [[0, 1]]


def test_an_end_counts_only_before_the_last_that_goes_on() -> None:
    logprobs = [[-0.5, -1.0, -2.0], [-0.5, -0.7, -9.0]]
    found = step([-1.0, -1.5], [[EOT, 4, 5], [6, 7, EOT]], logprobs)
    assert found.tokens.tolist() == [[4, 6]]
    # The other row's end, at -10.5, is behind the second of those that go on, at -2.0.
    assert found.end_logprobs.tolist() == [[-0.5, NO_END]]


def test_at_the_first_step_the_first_row_speaks_for_all() -> None:
    row = [-0.5, -1.0, -2.0]
    found = step([0.0, 0.0], [[4, 5, 6]] * 2, [row, row], first=True)
    assert found.tokens.tolist() == [[4, 5]]
    assert found.parents.tolist() == [[0, 0]]


def test_what_keywords_add_counts_in_scores_alone() -> None:
    logprobs = [[-0.1, -0.5, -4.0], [-0.2, -5.0, -6.0]]
    gains = [[0.0, 0.0, 3.0], [-1.0, 0.0, 0.0]]
    found = step([-1.0, -3.0], [[4, 5, 6], [7, 8, 4]], logprobs, gains=gains)
    assert found.tokens.tolist() == [[4, 5]]
    found = step([-1.0, -3.0], [[4, 5, 6], [7, 8, 4]], logprobs, gains=[[0.0, 0.0, 3.6], gains[1]])
    assert found.tokens.tolist() == [[4, 6]]
    assert torch.allclose(found.scores, torch.tensor([[-1.1, -1.4]], dtype=torch.float64))
    assert torch.allclose(found.logprobs, torch.tensor([[-0.1, -4.0]]))


def test_texts_stay_in_their_rows_where_they_can() -> None:
    parents = [[0, 0, 3, 1, 3], [4, 4, 4, 4, 4], [4, 3, 2, 1, 0]]
    tokens = torch.arange(15).view(3, 5)
    numbers = tokens.double()
    ends = -numbers.float()
    moved = least_moved(
        BeamStep(torch.tensor(parents), tokens, numbers.float(), numbers, end_logprobs=ends)
    )
    assert moved.parents.tolist() == [[0, 1, 0, 3, 3], [4, 4, 4, 4, 4], [0, 1, 2, 3, 4]]
    assert moved.tokens.tolist() == [[0, 3, 1, 2, 4], [6, 7, 8, 9, 5], [14, 13, 12, 11, 10]]
    assert moved.logprobs.tolist() == moved.scores.tolist() == moved.tokens.tolist()
    assert moved.end_logprobs is ends
