"""The lines of a plan, as ``--dry-run`` prints them."""

from rayvldd.cli.preparation import lines_of_plan


def test_keys_are_words_and_names_stay_as_they_are() -> None:
    assert lines_of_plan({"models_of_all_pairs": "none", "split": "test"}) == [
        "models of all pairs  none",
        "split                test",
    ]
    name = "rayvldd_workspace/studies/quickstart/best on convnet_d3"
    assert lines_of_plan({name: "5 students"}) == [f"{name}  5 students"]
