"""Write the repository's address, which stands in _config.yml, wherever it is needed.

python book/_ext/repository.py https://github.com/OWNER/NAME
"""

import re
import sys
from pathlib import Path

import yaml

import notebooks

ROOT = Path(__file__).resolve().parents[2]

ADDRESS = re.compile(r"https://github\.com/(?P<owner>[A-Za-z0-9][A-Za-z0-9-]*)/(?P<name>[A-Za-z0-9._-]+?)(?:\.git)?/?")
# Every way in which a file may name a repository or the site built from it.
MENTION = re.compile(
    r"(?:github\.com|colab\.research\.google\.com/github|raw\.githubusercontent\.com)"
    r"/(?P<owner>[A-Za-z0-9-]+)/(?P<name>[A-Za-z0-9._-]*[A-Za-z0-9_-])"
    r"|(?P<site_owner>[A-Za-z0-9-]+)\.github\.io/(?P<site_name>[A-Za-z0-9._-]*[A-Za-z0-9_-])"
)
BUILT = {"_build", "vendor", "__pycache__"}
TEXT = {".cff", ".css", ".html", ".ipynb", ".js", ".json", ".md", ".py", ".svg", ".toml", ".txt", ".yml", ""}


def read(root):
    """Return the address and the branch that _config.yml names."""
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]
    return {"url": settings["url"], "branch": settings["branch"]}


def files(root):
    """Return the text files of the repository; not what was built, nor what is hidden, save CI's own."""
    found = []
    for path in sorted(root.rglob("*")):
        folders = path.relative_to(root).parts[:-1]
        hidden = [name for name in (*folders, path.name) if name.startswith(".") and name not in (".ci", ".github")]
        built = [name for name in folders if name in BUILT or name.endswith(".egg-info")]
        if path.suffix in TEXT and path.is_file() and not hidden and not built:
            found.append(path)
    return found


def mentions(path):
    """Return the (owner, name) of every repository that a file names."""
    text = path.read_text(encoding="utf-8")
    return [
        (match["owner"] or match["site_owner"], match["name"] or match["site_name"]) for match in MENTION.finditer(text)
    ]


def write(root, url):
    """Replace the address everywhere; return the files that changed."""
    new = ADDRESS.fullmatch(url)
    if not new:
        raise ValueError(f"{url!r} is not a repository's address: expected https://github.com/OWNER/NAME")
    old = ADDRESS.fullmatch(read(root)["url"])

    def renamed(match):
        if (match["owner"], match["name"]) == (old["owner"], old["name"]):
            host = match[0].removesuffix(f"{old['owner']}/{old['name']}")
            return f"{host}{new['owner']}/{new['name']}"
        if (match["site_owner"], match["site_name"]) == (old["owner"].lower(), old["name"]):
            return f"{new['owner'].lower()}.github.io/{new['name']}"
        return match[0]

    changed = []
    for path in files(root):
        before = path.read_text(encoding="utf-8")
        after = MENTION.sub(renamed, before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            if path.suffix == ".ipynb":
                path.write_text(notebooks.normal_text(path), encoding="utf-8")
            changed.append(path)
    return changed


def main(arguments):
    """Write the address; return the exit status."""
    if len(arguments) != 1:
        print("Name the address: make repository URL=https://github.com/OWNER/NAME", file=sys.stderr)
        return 2
    try:
        changed = write(ROOT, arguments[0])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for path in changed:
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
