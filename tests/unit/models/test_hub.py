"""A hub that does not answer is found out by one request, not by minutes of repeated ones."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import constants

from rayvldd.config.settings import ImageEncoderSettings, TextEncoderSettings
from rayvldd.errors import ModelError
from rayvldd.models.image_encoder import build_image_encoder
from rayvldd.models.text_encoder import build_text_encoder
from rayvldd.storage import hub_access
from rayvldd.storage.hub_access import HubAwayError, hub_or_cache


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A hub at an address where nothing listens, an empty cache, and a list of the waits of the hub's library."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{probe.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        waits: list[str] = []
        monkeypatch.setattr("time.sleep", lambda seconds: waits.append(f"{seconds} s"))
        yield waits


def test_an_image_encoder_of_a_hub_that_is_away_is_refused_without_waiting(away: list[str]) -> None:
    settings = ImageEncoderSettings(name="mobilenetv3_small_050", pretrained=True)
    with pytest.raises(ModelError, match=r"http://127\.0\.0\.1:\d+ does not answer, and its cache on this machine"):
        build_image_encoder(settings)
    assert away == [] and not constants.HF_HUB_OFFLINE


def test_a_text_encoder_of_a_hub_that_is_away_is_refused_without_waiting(away: list[str]) -> None:
    settings = TextEncoderSettings(name="nobody/no_such_encoder", pooling="mean")
    with pytest.raises(ModelError, match=r"http://127\.0\.0\.1:\d+ does not answer, and its cache on this machine"):
        build_text_encoder(settings)
    assert away == [] and not constants.HF_HUB_OFFLINE


def test_cached_files_are_taken_while_the_hub_is_away(away: list[str]) -> None:
    with hub_or_cache():
        assert constants.HF_HUB_OFFLINE
    with pytest.raises(HubAwayError, match="does not have all of its files"), hub_or_cache():
        raise OSError("no such file")


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
def test_a_hub_that_answers_is_used(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def head(self, url: str, timeout: float) -> str:
            assert (url, timeout) == (constants.ENDPOINT, hub_access._ANSWER_S)
            return status

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub_or_cache():
        assert not constants.HF_HUB_OFFLINE


def test_the_request_is_left_out_where_the_user_has_chosen_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.get_session", lambda: pytest.fail("the hub was contacted"))
    with hub_or_cache():
        assert constants.HF_HUB_OFFLINE


def test_models_that_need_no_hub_do_not_contact_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        pytest.fail("the hub was contacted")

    monkeypatch.setattr(hub_access, "_answers", refused)
    build_image_encoder(ImageEncoderSettings(name="convnet_d3"))
    build_image_encoder(ImageEncoderSettings(name="test_byobnet", pretrained=False))
    build_text_encoder(TextEncoderSettings(pooling="hashed_ngrams", width=16))
