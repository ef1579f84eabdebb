"""Rules of cleaning, and the report of what they did."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_scripts import cleaning
from dataset_scripts.cleaning import (
    Report,
    clean_moments,
    cut_end,
    cut_start,
    is_too_short_for_training,
    raise_to_zero,
    strip_query,
    swap_reversed,
    unquote_title,
    widen_to_frame,
)
from dataset_scripts.reading import AnnotationError


TIMES = st.floats(-50, 200, allow_nan=False)
MOMENTS = st.lists(st.tuples(TIMES, TIMES).map(list), max_size=5)


def counts(report):
    return {what: number for what, number in report.changes.items() if number}


# ---- one moment ----


@pytest.mark.parametrize(
    ("rule", "moment", "expected"),
    [
        (swap_reversed, (8.0, 7.0), (7.0, 8.0)),
        (swap_reversed, (7.0, 7.0), (7.0, 7.0)),
        (raise_to_zero, (-2.0, 3.0), (0.0, 3.0)),
        (raise_to_zero, (-2.0, -1.0), (0.0, 0.0)),
        (cut_end, (3.0, 11.0), (3.0, 10.0)),
        (cut_end, (3.0, 10.0), (3.0, 10.0)),
        (cut_start, (12.0, 10.0), (10.0, 10.0)),
        (cut_start, (10.0, 10.0), (10.0, 10.0)),
    ],
)
def test_rule_of_a_moment(rule, moment, expected):
    assert rule(*moment, 10.0) == expected


@pytest.mark.parametrize(
    ("moment", "expected"),
    [((4.0, 6.0), (4.0, 6.0)), ((5.0, 5.5), (4.25, 6.25)), ((0.0, 0.0), (0.0, 2.0)), ((9.9, 10.0), (8.0, 10.0))],
)
def test_short_moment_becomes_a_frame_long_about_its_centre_inside_the_video(moment, expected):
    assert widen_to_frame(*moment, 10.0, 2.0) == pytest.approx(expected)


def test_every_rule_is_counted_where_it_applies():
    report = Report("x")
    moments = [[9.0, 8.0], [-1.0, 3.0], [7.0, 11.0], [12.0, 13.0], [2.0, 2.0]]
    cleaned = clean_moments(moments, 10.0, report)
    assert cleaned == [[0.0, 3.0], [2.0, 2.0], [7.0, 10.0], [8.0, 9.0], [10.0, 10.0]]
    assert counts(report) == {
        "moments with end before start swapped": 1,
        "moments that begin before the video cut to its start": 1,
        "ends cut to the duration": 2,
        "starts after the video cut to the duration": 1,
        "lists of moments sorted": 1,
    }
    assert moments[0] == [9.0, 8.0]


def test_short_moments_are_widened_in_training_alone():
    report = Report("x")
    assert clean_moments([[3.0, 3.0]], 10.0, report) == [[3.0, 3.0]]
    assert counts(report) == {}
    assert clean_moments([[3.0, 3.0]], 10.0, report, frame_sec=2.0) == [[2.0, 4.0]]
    assert counts(report) == {"moments shorter than 2 s widened": 1}


@given(MOMENTS, st.floats(0.1, 150))
def test_cleaned_moments_lie_in_order_inside_the_video(moments, duration):
    cleaned = clean_moments(moments, duration, Report("x"))
    assert len(cleaned) == len(moments)
    assert cleaned == sorted(cleaned)
    assert all(0 <= start <= end <= duration for start, end in cleaned)


@given(MOMENTS, st.floats(5, 150))
def test_cleaning_twice_changes_nothing_more(moments, duration):
    once = clean_moments(moments, duration, Report("x"))
    again = Report("x")
    assert clean_moments(once, duration, again) == once
    assert counts(again) == {}


@given(st.lists(st.tuples(st.floats(0, 150), st.floats(0, 150)).map(sorted).map(list)))
def test_good_moments_are_left_as_they_are(moments):
    report = Report("x")
    assert clean_moments(sorted(moments), 150.0, report) == sorted(moments)
    assert counts(report) == {}


# ---- whole annotations ----


def test_blanks_around_a_query_go():
    report = Report("x")
    assert strip_query(" He cuts\u00a0the  bread \n", report) == "He cuts\u00a0the  bread"
    assert strip_query("He cuts", report) == "He cuts"
    assert counts(report) == {"queries stripped of whitespace": 1}


@pytest.mark.parametrize(
    ("title", "expected"),
    [('"A, b"', "A, b"), ('"Say ""hi"", b"', 'Say "hi", b'), ('"Quoted"', '"Quoted"'), ('"', '"'), ("a, b", "a, b")],
)
def test_title_loses_the_quotes_of_a_table_only(title, expected):
    report = Report("x")
    assert unquote_title(title, report) == expected
    assert report.changes.total() == (title != expected)


@pytest.mark.parametrize(("duration", "expected"), [(4.99, True), (5.0, False)])
def test_videos_below_five_seconds_are_too_short(duration, expected):
    report = Report("x")
    assert is_too_short_for_training(duration, report) is expected
    assert report.changes.total() == expected


# ---- the report ----


def test_summary_names_counts_in_one_line(caplog):
    report = Report("tacos train")
    report.change("ends cut to the duration", 1805)
    report.change("queries stripped", 0)
    report.note("examples say the same as an earlier one", 2)
    report.log(12408, "FILE")
    assert caplog.messages == [
        "tacos train: 12,408 examples read from FILE; 1,805 ends cut to the duration; "
        "2 examples say the same as an earlier one"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_summary_without_a_change_is_no_warning(caplog):
    caplog.set_level(logging.INFO)
    report = Report("tacos val")
    report.note("examples say the same as an earlier one", 2)
    report.log(3, "FILE")
    assert caplog.records[0].levelno == logging.INFO


def test_errors_are_raised_or_counted_with_the_first_shown():
    with pytest.raises(AnnotationError, match="one"), Report("x", "raise").skip_errors():
        raise AnnotationError("one")
    report = Report("x", "skip")
    for message in ("one", "two"):
        with report.skip_errors():
            raise AnnotationError(message)
    assert report.summary(0, "FILE").endswith("; 2 malformed records skipped, the first: one")
    with pytest.raises(KeyError), report.skip_errors():
        raise KeyError("not an error of the annotations")


def test_all_rules_are_exported():
    assert {rule.__name__ for rule in cleaning.RULES} < set(cleaning.__all__)
