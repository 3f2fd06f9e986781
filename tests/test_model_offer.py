"""The offer of the model that hears people: when it is made, how it is taken, what is remembered."""

import pytest
from local_hub import LocalHub

from evoxtral.model import checkpoints, duration, precision
from evoxtral.ui import model_offer
from evoxtral.ui.model import Model
from evoxtral.ui.model_offer import Offer, Remembered

TINY = checkpoints.TINY_FOLDER


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that holds the scale model under the published names, and a cache of one's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for name in ("SPACE_ID", "EVOXTRAL_MODEL", "EVOXTRAL_ADAPTERS", "EVOXTRAL_SFT", "EVOXTRAL_RL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(model_offer, "MINI_FILES", 20e6)
    monkeypatch.setattr(duration, "clip_seconds", lambda config: 42.0)
    repos = {checkpoints.MINI_BASE: TINY / "base"}
    repos |= {checkpoints.MINI_ADAPTERS[name]: TINY / name for name in ("sft", "rl")}
    hub = LocalHub(repos)
    hub.use(monkeypatch, tmp_path / "cache")
    yield hub
    hub.shutdown()


def settled(model: Model) -> Model:
    model.engine()
    model.wait()
    return model


def test_one_click_downloads_loads_and_remembers_the_model_that_hears_people(hub):
    model = settled(Model())
    label, name = model.offered()
    assert label == "Hear people with Voxtral 3B (0 GB to download once; about 42 s for a clip of 5 s here)"
    before = model.engine()
    model.switch(name)
    assert model.engine() is before or model.engine().checkpoint.name == "mini-3b"  # the old one serves until then
    assert settled(model).engine().checkpoint.name == "mini-3b"
    assert model.coming == ""
    again = settled(Model())
    assert again.engine().checkpoint.name == "mini-3b"
    assert again.offered() == ("Back to the scale model", "auto")
    again.switch("auto")
    assert settled(again).engine().checkpoint.name == "tiny"
    assert settled(Model()).engine().checkpoint.name == "tiny"


def test_what_fails_is_said_and_the_model_that_runs_stays(hub):
    model = settled(Model())
    del hub.repos[checkpoints.MINI_ADAPTERS["rl"]]
    model.switch("mini-3b")
    assert settled(model).engine().checkpoint.name == "tiny"
    assert model.coming.startswith(f"Voxtral 3B did not come: {checkpoints.MINI_ADAPTERS['rl']}")
    assert model.remembered.name() is None
    assert model.offered()  # to try again


def test_a_remembered_model_that_cannot_be_loaded_does_not_keep_the_page_from_starting(hub):
    hub.repos.clear()
    Remembered().set("mini-3b")
    assert settled(Model()).engine().checkpoint.name == "tiny"


@pytest.mark.parametrize("reason", ["a Space", "named", "memory", "no Hub"])
def test_no_offer_where_it_could_not_be_kept(hub, monkeypatch, reason):
    if reason == "a Space":
        monkeypatch.setenv("SPACE_ID", "me/evoxtral")
    if reason == "memory":
        monkeypatch.setattr(precision, "free_bytes", lambda: 1e8)
    if reason == "no Hub":
        hub.repos.clear()
    name = "tiny" if reason == "named" else "auto"
    assert settled(Model(name)).offered() is None


def test_a_model_that_is_here_already_needs_no_download():
    assert "downloaded already" in Offer(0, 30.0).sentence


def test_the_duration_follows_from_what_the_products_take(monkeypatch):
    """By hand, for the published model: see the formula; the text model's weights are counted by PyTorch."""
    config = checkpoints.published_config()
    operations, read = duration.work(config)
    layer = 2 * 1500 * (4 * 1280**2 + 2 * 1280 * 5120) + 4 * 1500**2 * 1280
    weights = 30 * (3072 * 128 * (32 + 8 + 8 + 32) + 3 * 3072 * 8192)
    assert read == weights + 3072 * 131072
    assert operations == 32 * layer + 2 * (375 + 12) * weights
    monkeypatch.setattr(duration, "_measured", lambda: (1e-12, 1e-10))
    assert duration.clip_seconds(config, tokens=10) == pytest.approx(1.6 * (operations * 1e-12 + 10 * read * 1e-10))
