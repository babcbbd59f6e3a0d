"""Fetch the browser files that the site serves itself: KaTeX's stylesheet and fonts, and the typeface of the text.

Run it as ``python book/_ext/assets.py``. The packages come from the npm registry that this machine's npm is configured
with, each at one version and with one recorded hash, and nothing is unpacked before its hash has been checked.
"""

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

VENDOR = Path(__file__).resolve().parent.parent / "_static" / "vendor"
STAMP = "fetched"


@dataclass(frozen=True)
class Asset:
    """One npm package, and what of it the site needs."""

    folder: str  # below the vendor folder
    package: str
    version: str
    integrity: str
    strip: str  # the leading folder that the kept files lose
    keep: str  # a regular expression over the names inside the tarball

    @property
    def stamp(self) -> str:
        """Identify this very fetch."""
        return f"{self.package} {self.version} {self.integrity} {self.keep}\n"


ASSETS = (
    Asset(
        folder="katex",
        package="katex",
        version="0.16.22",  # what sphinxcontrib-katex renders with; a test holds the two together
        integrity="sha512-XCHRdUw4lf3SKBaJe4EvgqIuWwkPSo9XoeO8GjQW94Bp7TWv9hNhzZjZ+OH9yf1UmLygb7DIT5GSFQiyt16zYg==",
        strip="package/dist",
        keep=r"package/dist/katex\.min\.css|package/dist/fonts/.*\.woff2",
    ),
    Asset(
        folder="source-serif",
        package="@fontsource-variable/source-serif-4",
        version="5.3.1",
        integrity="sha512-4Rtay22SC4lMvw11r/+9kxANB6P3M0X8s1NudBC2v0J1KU2y3DcMoNcT3lBoZ/CqLirzf+StlO6UlJilyrvaUg==",
        strip="package/files",
        keep=r"package/files/source-serif-4-latin-wght-(normal|italic)\.woff2",
    ),
)


class FetchError(Exception):
    """A fetch that failed; the message is one sentence that says what to do."""


def main() -> int:
    """Fetch what is missing and report it, one line each."""
    try:
        for asset in ASSETS:
            fetched = fetch(asset, VENDOR / asset.folder)
            print(f"assets: {asset.package} {asset.version} {'fetched' if fetched else 'is already there'}")
    except FetchError as error:
        print(f"assets: {error}", file=sys.stderr)
        return 1
    return 0


def fetch(asset: Asset, target: Path) -> bool:
    """Put the asset's files into ``target``; true if they had to be fetched."""
    if is_current(asset, target):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as folder:
        content = verified(asset, pack(asset, Path(folder)))
        fresh = Path(folder) / "fresh"
        unpack(asset, content, fresh)
        (fresh / STAMP).write_text(asset.stamp)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(fresh, target)  # last and atomic: an interrupted fetch leaves no half-written folder
    return True


def is_current(asset: Asset, target: Path) -> bool:
    """Say whether ``target`` holds a complete fetch of this very version; the stamp is written last."""
    try:
        return (target / STAMP).read_text() == asset.stamp
    except OSError:
        return False


def pack(asset: Asset, folder: Path) -> bytes:
    """Let npm download the package and return the tarball's bytes."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    npm = shutil.which("npm", path=path)
    if npm is None:
        raise FetchError("npm was not found: install the pinned requirements, which bring it, and run this again.")
    spec = f"{asset.package}@{asset.version}"
    try:
        done = subprocess.run(
            [npm, "pack", spec, "--silent", "--pack-destination", str(folder)],
            cwd=folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FetchError(
            f"npm did not deliver {spec} within 5 minutes: check the network and run this again."
        ) from None
    tarballs = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(tarballs) != 1:
        raise FetchError(
            f"npm could not fetch {spec} (exit status {done.returncode}): check the network "
            f"and the registry that npm is configured with, try `npm view {spec}`, then run this again."
        )
    return tarballs[0].read_bytes()


def verified(asset: Asset, content: bytes) -> bytes:
    """Return the tarball's bytes if their hash is the recorded one."""
    found = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != asset.integrity:
        raise FetchError(
            f"{asset.package}@{asset.version} arrived with the hash {found} instead of the recorded {asset.integrity}: "
            "nothing was unpacked; find out what changed the package before running this again."
        )
    return content


def unpack(asset: Asset, content: bytes, folder: Path) -> None:
    """Write the kept files and the package's licence, and nothing else."""
    kept = 0
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive.getmembers():
            source = archive.extractfile(member) if member.isfile() else None
            if source is None:
                continue
            if re.fullmatch(asset.keep, member.name):
                place = folder / PurePosixPath(member.name).relative_to(asset.strip)
                kept += 1
            elif member.name == "package/LICENSE":
                place = folder / "LICENSE"
            else:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(source.read())
    if not kept:
        raise FetchError(
            f"{asset.package}@{asset.version} holds no file that matches {asset.keep!r}: correct the pattern."
        )


if __name__ == "__main__":
    sys.exit(main())
