"""Timecode: labels worked by hand from SMPTE's rule, and the rates that have labels."""

from fractions import Fraction

import pytest

from r2tuning.editors.timecode import format_timecode, parse_timecode, timecode_rate, to_frame


FILM, NTSC, NTSC_60 = Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)
# Frame and label. Drop-frame leaves out :00 and :01 (at 59.94 also :02 and :03) of each minute but every tenth.
DROP_FRAME = [
    (NTSC, 0, "00:00:00;00"),
    (NTSC, 1799, "00:00:59;29"),
    (NTSC, 1800, "00:01:00;02"),
    (NTSC, 3597, "00:01:59;29"),
    (NTSC, 3598, "00:02:00;02"),
    (NTSC, 17981, "00:09:59;29"),
    (NTSC, 17982, "00:10:00;00"),
    (NTSC, 107892, "01:00:00;00"),
    (NTSC_60, 3599, "00:00:59;59"),
    (NTSC_60, 3600, "00:01:00;04"),
    (NTSC_60, 7195, "00:01:59;59"),
    (NTSC_60, 7196, "00:02:00;04"),
    (NTSC_60, 35964, "00:10:00;00"),
    (NTSC_60, 215784, "01:00:00;00"),
]
OTHERS = [
    (FILM, 23, "00:00:00:23"),
    (FILM, 1440, "00:01:00:00"),
    (FILM, 86400, "01:00:00:00"),
    (NTSC, 1800, "00:01:00:00"),
    (Fraction(25), 1525, "00:01:01:00"),
    (Fraction(60), 3599, "00:00:59:59"),
]


@pytest.mark.parametrize(("rate", "frame", "label"), [*DROP_FRAME, *OTHERS])
def test_labels(rate, frame, label):
    drop_frame = ";" in label
    assert format_timecode(frame, rate, drop_frame=drop_frame) == label
    assert parse_timecode(label, rate) == (frame, drop_frame)


@pytest.mark.parametrize("rate", [NTSC, NTSC_60])
def test_every_drop_frame_label_of_eleven_minutes_names_its_frame(rate):
    labels = [format_timecode(frame, rate, drop_frame=True) for frame in range(0, 11 * 60 * 60, 7)]
    assert [parse_timecode(label, rate)[0] for label in labels] == list(range(0, 11 * 60 * 60, 7))
    assert sorted(set(labels)) == labels


def test_labels_repeat_after_a_day():
    assert format_timecode(24 * 107892 + 5, NTSC, drop_frame=True) == "00:00:00;05"


@pytest.mark.parametrize(
    ("label", "rate"),
    [
        ("00:01:00;00", NTSC),  # dropped
        ("00:01:00;03", NTSC_60),
        ("00:00:00:25", Fraction(25)),
        ("00:60:00:00", Fraction(25)),
        ("00:00:00;00", FILM),
        ("12.5", Fraction(25)),
    ],
)
def test_what_is_no_label(label, rate):
    with pytest.raises(ValueError, match=f"'{label}' is "):
        parse_timecode(label, rate)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (Fraction(2997, 100), NTSC),
        (Fraction(23976, 1000), FILM),
        (Fraction(24), Fraction(24)),
        (Fraction(5), Fraction(25)),
        (Fraction(15), Fraction(30)),
        (Fraction(15000, 1001), NTSC),
        (Fraction(2500, 149), Fraction(30)),
        (Fraction(0), Fraction(30)),
        (Fraction(120000, 1001), NTSC_60),  # the highest rate that it is a multiple of
        (Fraction(240000, 1001), NTSC_60),
        (Fraction(100), Fraction(50)),
        (Fraction(120), Fraction(60)),
        (Fraction(90), Fraction(30)),
        (Fraction(96), Fraction(48)),
        (Fraction("119.881"), NTSC_60),
        (Fraction(110), Fraction(30)),
    ],
)
def test_rates(rate, expected):
    assert timecode_rate(rate) == expected


def test_times_become_the_nearest_frame():
    assert [to_frame(time, Fraction(25)) for time in (0, 0.019, 0.02, 0.0599, 0.0601)] == [0, 0, 1, 1, 2]
