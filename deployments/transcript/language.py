"""Which language a file is in, by a vote of its first chunks."""


class LanguageVote:
    """Sums probabilities until one chunk is sure, or enough chunks have been asked.

    Args:
        wanted: number of chunks to ask at most.
    """

    SURE = 0.5

    def __init__(self, wanted: int) -> None:
        self.n_votes = 0
        self.decided = False
        self._wanted = wanted
        self._sums: dict[str, float] = {}

    def add(self, language: str, probability: float) -> None:
        self.n_votes += 1
        self._sums[language] = self._sums.get(language, 0.0) + probability
        if probability >= self.SURE or self.n_votes >= self._wanted:
            self.decided = True

    def close(self) -> None:
        """End the vote, because no chunk is left to ask."""
        self.decided = True

    @property
    def language(self) -> str | None:
        """The language with the most votes; None without a vote."""
        return max(self._sums, key=self._sums.__getitem__) if self._sums else None
