"""Mixes several channels down to one, as a stream, without losing speech.

Channels with the same sound, as in nearly every file, are averaged. Where channels differ, or are
inverted copies of each other, those that carry speech are averaged, and channels that would cancel
others are inverted first.
"""

from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.audio.channel_choice import ChannelChoice
from deployments.audio.channel_likeness import ChannelLikeness

_Mono = npt.NDArray[np.float64]
_Channels = npt.NDArray[np.float32]

_HOP_S = 0.5
_FADE_S = 0.02
_CALM_HOPS = 4  # after so many hops with the same sound in all channels, stop listening to them
_RARE = 0.02  # `words` leaves out mixes with a smaller share of the hops


@dataclass(frozen=True, slots=True, eq=False)
class _Hop:
    """Half a second of audio. `signs` is None if the hop is silent, because silence has none."""

    channels: _Channels
    signs: npt.NDArray[np.float64] | None
    speaking: npt.NDArray[np.bool_]


class ChannelMixer:
    """Holds the state of one stream. Feed it with `push`, then call `finish` once.

    Keeps up to a second and a half of audio, because speech in a channel is detected a little late
    and its beginning must not be lost.
    """

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self._n = n_channels
        self._rate = sample_rate
        self._hop = max(1, round(_HOP_S * sample_rate))
        self._fade = max(1, round(_FADE_S * sample_rate))
        self._likeness = ChannelLikeness(sample_rate, n_channels)
        self._choice: ChannelChoice | None = None
        """None while all channels have the same sound."""
        self._rest: list[_Channels] = []
        self._n_rest = 0
        self._hops: deque[_Hop] = deque()
        self._signs = np.ones(n_channels)
        self._last_speaking = np.zeros(n_channels, np.bool_)
        self._mean = np.full(n_channels, 1.0 / n_channels)
        self._weights = self._mean
        self._n_calm = 0
        self._used: dict[tuple[int, ...], float] = defaultdict(float)

    def push(self, frames: _Channels) -> _Mono:
        """Take finite float32 (n_frames, n_channels); returns (n_samples,), what is mixed so
        far."""
        if self._choice is None:
            self._likeness.glance(frames)
            if self._likeness.is_one_sound:
                if not self._likeness.is_silent:
                    self._count(self._mean, len(frames) / self._hop)
                return self._mix(frames.T, self._mean)
            self._choice, self._n_calm = ChannelChoice(self._rate, self._n), 0
            self._likeness = ChannelLikeness(self._rate, self._n)
        return self._listen(np.ascontiguousarray(frames.T))

    def finish(self) -> _Mono:
        """The mix of the audio that is still held."""
        pieces: list[_Mono] = []
        if self._n_rest:
            self._take_hop(self._take_rest())
        while self._hops:
            pieces.append(self._give_hop())
        return np.concatenate([np.zeros(0), *pieces])

    @property
    def words(self) -> str:
        """How the channels have been mixed so far, in words."""
        total = sum(self._used.values())
        common = [signs for signs, n in self._used.items() if n > _RARE * total]
        if len(common) > 1:
            return f"those of {self._n} with speech"
        return _words(common[0]) if common else f"mean of {self._n}"

    def _listen(self, channels: _Channels) -> _Mono:
        """Cut channels into hops, and mix every hop whose following one is known."""
        pieces: list[_Mono] = []
        start = 0
        while channels.shape[1] - start >= (missing := self._hop - self._n_rest):
            self._rest.append(channels[:, start : start + missing])
            start += missing
            self._take_hop(self._take_rest())
            if len(self._hops) > 1:
                pieces.append(self._give_hop())
        if rest := channels.shape[1] - start:
            self._rest.append(channels[:, start:].copy())
            self._n_rest += rest
        if self._n_calm >= _CALM_HOPS:
            while self._hops:
                pieces.append(self._give_hop())
            pieces.append(self._mix(self._take_rest(), self._mean))
            self._choice = None
        return np.concatenate([np.zeros(0), *pieces])

    def _take_rest(self) -> _Channels:
        pieces, self._rest, self._n_rest = self._rest, [], 0
        return np.concatenate([np.zeros((self._n, 0), np.float32), *pieces], axis=1)

    def _take_hop(self, channels: _Channels) -> None:
        assert self._choice is not None, "only then are there hops"
        likeness = self._likeness
        likeness.push(channels)
        speaking = self._choice.speaking(channels, likeness)
        signs = None
        if not likeness.is_silent:
            signs = likeness.signs(speaking if speaking.any() else likeness.alive())
        self._hops.append(_Hop(channels, signs, speaking))
        self._n_calm = self._n_calm + 1 if likeness.is_one_sound else 0

    def _give_hop(self) -> _Mono:
        """Mix the oldest hop from the channels that carry speech in it or in its neighbours; if
        there are none, keep the weights of the hop before."""
        hop = self._hops.popleft()
        following = self._hops[0] if self._hops else hop
        around = self._last_speaking | hop.speaking | following.speaking
        self._last_speaking = hop.speaking
        if hop.signs is not None:
            self._signs = hop.signs
        elif following.signs is not None:
            self._signs = following.signs
        weights = self._weights
        if around.any():
            weights = np.where(around, self._signs, 0.0) / np.count_nonzero(around)
            if hop.signs is not None:
                self._count(weights, 1.0)
        elif not self._used:
            weights = self._signs / self._n
        return self._mix(hop.channels, weights)

    def _mix(self, channels: _Channels, weights: npt.NDArray[np.float64]) -> _Mono:
        """Mix in float64, because the sum of large floats must not overflow. New weights fade
        in."""
        mono = _mean(channels) if weights is self._mean else _weighted(channels, weights)
        if not np.array_equal(weights, self._weights):
            before = _weighted(channels[:, : self._fade], self._weights)
            ramp = np.linspace(0, 1, len(before))
            mono[: len(ramp)] = ramp * mono[: len(ramp)] + (1 - ramp) * before
        self._weights = weights
        return mono

    def _count(self, weights: npt.NDArray[np.float64], n_hops: float) -> None:
        self._used[tuple(np.sign(weights).astype(int).tolist())] += n_hops


def _mean(channels: _Channels) -> _Mono:
    """Add channel by channel: this is many times as fast as `mean`, whose inner loop would run over
    two numbers."""
    if len(channels) == 2:
        total: _Mono = np.add(channels[0], channels[1], dtype=np.float64)
    else:
        total = np.add.reduce(np.ascontiguousarray(channels), axis=0, dtype=np.float64)
    total /= len(channels)
    return total


def _weighted(channels: _Channels, weights: npt.NDArray[np.float64]) -> _Mono:
    used = np.flatnonzero(weights)
    mono: _Mono = np.einsum("i,ij->j", weights[used], channels[used], dtype=np.float64)
    return mono


def _words(signs: tuple[int, ...]) -> str:
    """Describe one mix for a whole file, given as -1, 0 or 1 for each channel."""
    n = len(signs)
    chosen = [str(index + 1) for index, sign in enumerate(signs) if sign]
    turned = [str(index + 1) for index, sign in enumerate(signs) if sign < 0]
    if len(chosen) == 1:
        return f"channel {chosen[0]} of {n}"
    what = f"mean of {n}" if len(chosen) == n else f"mean of channels {', '.join(chosen)} of {n}"
    return f"{what}, {', '.join(turned)} inverted" if turned else what
