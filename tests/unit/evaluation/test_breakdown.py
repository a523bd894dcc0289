"""What a caption names, recall by groups of captions, and subjects kept, each against a plain loop."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayvldd.evaluation.breakdown import (
    CaptionGroup,
    groups_by_gender,
    groups_by_length,
    groups_by_noun,
    subject_shares,
)
from rayvldd.evaluation.caption_nouns import genders, naming, nouns, word_sets
from rayvldd.evaluation.intervals import share_interval
from rayvldd.evaluation.recall import RetrievalRanks

CAPTIONS = [
    "A woman throws a ball to two dogs .",
    "The man and his wife sit on a bench.",
    "Two DOGS, running",
    "He is skiing",
    "Manmade doghouse",
]


def test_words_count_as_wholes_and_in_their_forms() -> None:
    words = word_sets(CAPTIONS)
    assert naming(words, nouns()["dog"]).tolist() == [True, False, True, False, False]
    assert naming(words, nouns()["man"]).tolist() == [False, True, False, False, False]


def test_genders_are_recognised_by_nouns_and_pronouns() -> None:
    by_name = {group.name: group.chosen.tolist() for group in groups_by_gender(CAPTIONS)}
    assert by_name == {
        "female only": [True, False, False, False, False],
        "male only": [False, False, False, True, False],
        "female and male": [False, True, False, False, False],
        "neither": [False, False, True, False, True],
    }


def test_no_form_belongs_to_two_nouns_or_both_genders() -> None:
    forms = [form for of_noun in nouns().values() for form in of_noun]
    assert len(forms) == len(set(forms)) > 200
    assert not genders()["female"] & genders()["male"]
    assert all(form.isalpha() and form.islower() for form in [*forms, *genders()["female"], *genders()["male"]])


@settings(max_examples=80, derandomize=True, deadline=None, database=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_length_groups_share_out_all_captions(lengths: list[int]) -> None:
    groups = groups_by_length([" ".join(["word"] * length) for length in lengths])
    assert np.sum([group.chosen for group in groups], axis=0).tolist() == [1] * len(lengths)
    assert 1 <= len(groups) <= 4
    assert all(group.num_captions for group in groups)
    spans = [np.array(lengths)[group.chosen] for group in groups]
    assert all(left.max() < right.min() for left, right in itertools.pairwise(spans))


def test_length_groups_are_quarters_where_lengths_differ() -> None:
    groups = groups_by_length([" ".join(["word"] * length) for length in range(5, 45)])
    assert [group.num_captions for group in groups] == [10, 10, 10, 10]
    assert [group.name for group in groups] == ["5 to 14 words", "15 to 24 words", "25 to 34 words", "35 to 44 words"]


def test_recall_of_a_group_is_that_of_its_captions_over_students() -> None:
    group = CaptionGroup("some", np.array([True, False, True, True]))
    students = [RetrievalRanks(np.array([1]), np.array(places)) for places in ([1, 1, 5, 11], [6, 99, 10, 2])]
    # R@1: 1 of 3 and 0; R@5: 2 of 3 and 1 of 3; R@10: 2 of 3 and 3 of 3
    assert group.recall(students) == pytest.approx(100 * (1 / 6 + 3 / 6 + 5 / 6) / 3)


def test_nouns_are_shown_from_the_most_frequent_and_only_where_there_are_enough() -> None:
    captions = ["a dog"] * 25 + ["a cat and a dog"] * 20 + ["a horse"] * 19
    groups = groups_by_noun(captions)
    assert [(group.name, group.num_captions) for group in groups] == [("dog", 45), ("cat", 20)]


def test_subjects_kept_are_counted_as_a_loop_would() -> None:
    data = ["a man with a dog"] * 30 + ["a woman"] * 70
    nearest = ["a man with a dog"] * 9 + ["a woman"]
    shares = {share.name: share for share in subject_shares(data, ["a woman"] * 10, nearest)}
    assert shares["male only"].data == pytest.approx(0.3) and shares["male only"].kept == pytest.approx(0.9)
    assert shares["dog"].start == 0 and shares["woman"].start == 1
    assert shares["dog"].differs and shares["female only"].differs
    assert not shares["neither"].differs and shares["neither"].kept == 0
    from_noise = subject_shares(data, [""] * 10, nearest)
    assert all(share.start is None for share in from_noise)


def test_interval_of_a_share_is_wilsons() -> None:
    assert share_interval(10, 100) == pytest.approx((0.0552, 0.1744), abs=5e-5)  # Wilson (1927), as tabled
    for count in range(1, 600):
        assert share_interval(0, count)[0] == 0 and share_interval(count, count)[1] == 1
        assert all(0 < end < 1 for hits in (1, count - 1) if 0 < hits < count for end in share_interval(hits, count))
    low, high = share_interval(3, 7)
    for end in (low, high):  # its ends are where the share is 1.96 standard errors of the end away
        assert abs(3 / 7 - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 7), rel=1e-6)
