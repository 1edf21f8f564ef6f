"""The cache folder."""

import pytest

from sapwood.config import home
from sapwood.errors import ResourceError


def test_home_is_made_where_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SAPWOOD_HOME", str(tmp_path / "a" / "b"))
    assert home() == tmp_path / "a" / "b"
    assert home().is_dir()


def test_home_defaults_to_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("SAPWOOD_HOME", " ")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    assert home() == tmp_path / "sapwood"


def test_a_file_in_the_way_is_told(monkeypatch, tmp_path):
    (tmp_path / "x").write_text("")
    for place in (tmp_path / "x", tmp_path / "x" / "y"):
        monkeypatch.setenv("SAPWOOD_HOME", str(place))
        with pytest.raises(ResourceError) as caught:
            home()
        assert caught.value.code == "E-RESOURCE-020"
        assert "SAPWOOD_HOME" in caught.value.fix
