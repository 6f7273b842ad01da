"""Which language a file is in, by a vote of its first chunks."""

from collections.abc import Iterable


class LanguageVote:
    """Sums probabilities until one chunk is sure, or enough chunks have been asked.

    Args:
        wanted: number of chunks to ask at most.
        sure: a chunk is sure from this probability on; None: all are asked.
    """

    SURE = 0.5

    def __init__(self, wanted: int, sure: float | None = SURE) -> None:
        self.n_votes = 0
        self.decided = False
        self._wanted = wanted
        self._sure = sure
        self._sums: dict[str, float] = {}

    def add(self, probabilities: Iterable[tuple[str, float]]) -> None:
        """Take a chunk's languages: all, or the likeliest alone."""
        self.n_votes += 1
        highest = 0.0
        for language, probability in probabilities:
            self._sums[language] = self._sums.get(language, 0.0) + probability
            highest = max(highest, probability)
        is_sure = self._sure is not None and highest >= self._sure
        if is_sure or self.n_votes >= self._wanted:
            self.decided = True

    def close(self) -> None:
        """End the vote, because no chunk is left to ask."""
        self.decided = True

    @property
    def language(self) -> str | None:
        """The language with the most votes; None without a vote."""
        return max(self._sums, key=self._sums.__getitem__) if self._sums else None

    @property
    def ranking(self) -> tuple[tuple[str, float], ...]:
        """All languages with their mean probabilities, the likeliest first."""
        means = {language: total / self.n_votes for language, total in self._sums.items()}
        return tuple(sorted(means.items(), key=lambda item: item[1], reverse=True))
