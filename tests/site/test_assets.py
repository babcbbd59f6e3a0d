"""Fetching the site's fonts and stylesheets from the registry."""

import io
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

import assets

KATEX, FONT = assets.ASSETS


def tarball(**files: bytes) -> bytes:
    """Pack files as npm does."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def test_katex_is_the_version_that_sphinxcontrib_katex_renders_with() -> None:
    from sphinxcontrib import katex

    assert KATEX.version == katex.katex_version


def test_versions_are_exact_and_hashes_are_sha512() -> None:
    for asset in assets.ASSETS:
        assert re.fullmatch(r"\d+\.\d+\.\d+", asset.version)
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", asset.integrity)


def test_what_was_fetched_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "katex"
    target.mkdir()
    (target / assets.STAMP).write_text(KATEX.stamp)
    monkeypatch.setattr(assets, "pack", lambda asset, folder: pytest.fail("fetched again"))
    assert assets.fetch(KATEX, target) is False


def test_another_version_replaces_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "katex"
    target.mkdir()
    (target / assets.STAMP).write_text(replace(KATEX, version="0.0.1").stamp)
    (target / "old.css").touch()
    files = {"package/dist/katex.min.css": b"new", "package/dist/katex.js": b"not kept", "package/LICENSE": b"MIT"}
    content = tarball(**files)
    monkeypatch.setattr(assets, "pack", lambda asset, folder: content)
    monkeypatch.setattr(assets, "verified", lambda asset, content: content)
    assert assets.fetch(KATEX, target) is True
    assert sorted(path.name for path in target.iterdir()) == ["LICENSE", assets.STAMP, "katex.min.css"]


def test_a_wrong_hash_is_refused_before_anything_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "pack", lambda asset, folder: b"something else")
    monkeypatch.setattr(assets, "unpack", lambda *arguments: pytest.fail("unpacked"))
    with pytest.raises(assets.FetchError, match="instead of the recorded") as error:
        assets.fetch(FONT, tmp_path / "font")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_fetch_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(asset: assets.Asset, content: bytes, folder: Path) -> None:
        folder.mkdir()
        (folder / "katex.min.css").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(assets, "pack", lambda asset, folder: b"")
    monkeypatch.setattr(assets, "verified", lambda asset, content: content)
    monkeypatch.setattr(assets, "unpack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assets.fetch(KATEX, tmp_path / "katex")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_npm_is_reported_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho trouble >&2\nexit 7\n")
    npm.chmod(0o755)
    monkeypatch.setattr(assets.shutil, "which", lambda name, path: str(npm))
    monkeypatch.setattr(assets, "VENDOR", tmp_path / "vendor")
    assert assets.main() == 1
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert "exit status 7" in complaint
    assert "run this again" in complaint
    assert list((tmp_path / "vendor").iterdir()) == []


def test_a_missing_npm_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets.shutil, "which", lambda name, path: None)
    with pytest.raises(assets.FetchError, match="npm was not found"):
        assets.pack(KATEX, tmp_path)
