"""One clock for a stream's times: sound times and pauses stay, and what is mended is as if it had never been wrong."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from diffvqa_rt.video.clock import NO_TIME, Clock, Stamps, clock_from_stamps, display_times_from_dts

STEP = 40
# Decoding orders of a group of pictures: the place in display order of each packet, and the decoder's delay.
ORDERS = {"no B": ((0,), 0), "two B": ((2, 0, 1), 1), "pyramid": ((4, 2, 0, 1, 3), 2)}


def stamps(shown: np.ndarray, order: str = "no B", *, is_dts_stored: bool = True, may_leap: bool = False) -> Stamps:
    """The packets of frames that are shown at the ascending times `shown`."""
    group, delay = ORDERS[order]
    # The first picture refers to nothing; then come whole groups, and what is left over.
    places = [0]
    while len(places) < len(shown):
        size = min(len(group), len(shown) - len(places))
        places += [len(places) + place for place in group if place < size]
    pts = shown[places]
    dts = np.concatenate([shown[0] - STEP * np.arange(delay, 0, -1), shown])[: len(shown)]
    is_key = np.zeros(len(shown), np.bool_)
    is_key[0] = True
    return Stamps(
        pts=pts,
        dts=dts,
        durations=np.zeros_like(pts),
        is_shown=np.ones_like(is_key),
        is_key=is_key,
        unit_seconds=1e-3,
        is_dts_stored=is_dts_stored,
        may_leap=may_leap,
    )


def regular(count: int, start: int = 0) -> np.ndarray:
    return start + STEP * np.arange(count)


def clock_of(packets: Stamps) -> Clock:
    clock = clock_from_stamps(packets)
    assert clock is not None
    return clock


def joined(*parts: Stamps) -> Stamps:
    names = ("pts", "dts", "durations", "is_shown", "is_key")
    together: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return dataclasses.replace(parts[0], **together)


@pytest.mark.parametrize("is_dts_stored", [True, False])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("paused", [(), (59,), (58, 59), (57,), (30,), (1,), (2,), (3,), (4,), (10, 20, 30), range(60)])
def test_sound_times_stay_with_all_their_pauses(order: str, is_dts_stored: bool, paused: tuple[int, ...]) -> None:
    shown = regular(60)
    for place in paused:
        shown[place:] += 60_000
    packets = stamps(shown, order, is_dts_stored=is_dts_stored)
    clock = clock_of(packets)
    assert not clock.is_mended
    np.testing.assert_array_equal(clock.times, packets.pts)


@pytest.mark.parametrize("may_leap", [True, False])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("starts", [(0, 0), (90_000, 0), (0, 0, 0), (500, 20, 7), (0, 3 * STEP, 0)])
def test_recordings_one_after_the_other_are_one(order: str, may_leap: bool, starts: tuple[int, ...]) -> None:
    parts = [stamps(regular(40, start), order, may_leap=may_leap) for start in starts]
    clock = clock_of(joined(*parts))
    assert clock.restarts == tuple(range(40, 40 * len(starts), 40))
    np.testing.assert_array_equal(np.sort(clock.times), regular(40 * len(starts), starts[0]))
    assert clock.end - clock.start == 40 * len(starts) * STEP


def test_a_leap_is_a_pause_unless_the_format_may_leap() -> None:
    for may_leap in (True, False):
        clock = clock_of(joined(*(stamps(regular(40, start), may_leap=may_leap) for start in (0, 100_000))))
        assert clock.restarts == ((40,) if may_leap else ())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("strays", [(12,), (5,), (20, 40), (20, 21), (20, 22)])
@pytest.mark.parametrize("seconds", [5, 3600, -3600])
@pytest.mark.parametrize("is_dts_stored", [True, False])
def test_strays_go_to_the_place_that_is_free(
    order: str, strays: tuple[int, ...], seconds: int, is_dts_stored: bool
) -> None:
    packets = stamps(regular(60), order, is_dts_stored=is_dts_stored)
    pts = packets.pts.copy()
    pts[list(strays)] += 1000 * seconds
    clock = clock_of(dataclasses.replace(packets, pts=pts))
    assert clock.strays == len(strays)
    assert clock.restarts == ()
    np.testing.assert_array_equal(np.sort(clock.times), np.sort(packets.pts))


@pytest.mark.parametrize("place", [0, 1, 57, 58, 59])
def test_decoding_times_tell_of_strays_at_the_ends(place: int) -> None:
    packets = stamps(regular(60))
    pts = packets.pts.copy()
    pts[place] += 3_600_000
    clock = clock_of(dataclasses.replace(packets, pts=pts))
    np.testing.assert_array_equal(clock.times, packets.pts)


def test_frames_without_a_time_lie_between_their_neighbours() -> None:
    packets = stamps(regular(60))
    pts = packets.pts.copy()
    pts[1::3] = NO_TIME
    clock = clock_of(dataclasses.replace(packets, pts=pts))
    assert clock.missing == 20
    np.testing.assert_array_equal(clock.times, packets.pts)


def test_times_that_stand_still_are_none() -> None:
    still = stamps(np.zeros(60, np.int64))
    assert clock_from_stamps(still) is None
    assert clock_from_stamps(dataclasses.replace(still, pts=np.full(60, NO_TIME))) is None
    # In pairs, as of a camera that stores each frame twice, they are times all the same.
    assert not clock_of(stamps(regular(60) // (2 * STEP) * 2 * STEP)).is_mended


def test_the_kth_frame_shown_was_due_when_its_packet_was_decoded() -> None:
    dropped = np.array([0, 1, 2, 3, 8, 9, 12])
    np.testing.assert_array_equal(display_times_from_dts(dropped, 0), dropped)
    np.testing.assert_array_equal(display_times_from_dts(dropped, 1), [0, 1, 2, 7, 8, 11, 14])
