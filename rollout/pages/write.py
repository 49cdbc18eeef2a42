"""Write pages that open from disk, without a network: skeleton, styles, scripts and content in one file.

A template is an HTML file of this folder that names its assets as usual, `<link rel="stylesheet" href="style.css">` and
`<script src="charts.js"></script>`, and has an empty `<script type="application/json" id="content">` for the data. The
assets are put in their place, and the page's Content-Security-Policy allows exactly these by their hashes: no other
script and no request, whatever the data says.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rollout.files import replacing

_FOLDER = Path(__file__).parent / "assets"
_STYLE = re.compile(r'<link rel="stylesheet" href="([\w.]+)">')
_SCRIPT = re.compile(r'<script src="([\w.]+)"></script>')
_CONTENT = '<script type="application/json" id="content"></script>'
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_page(path: Path, template: str, content: Mapping[str, Any]) -> None:
    """Write `path`, atomically, from the skeleton `template` ("report.html") and `content` (see report_content.py).

    Raises ValueError for NaN and infinity, which JSON lacks: use None.
    """
    with replacing(path) as partial:
        # A lone surrogate, which UTF-8 cannot encode, becomes \udXXX, as JSON writes it.
        partial.write_bytes(_page(template, content).encode("utf-8", "backslashreplace"))


def _page(template: str, content: Mapping[str, Any]) -> str:
    skeleton = _asset(template)
    styles = [_asset(name) for name in _STYLE.findall(skeleton)]
    scripts = [_asset(name) for name in _SCRIPT.findall(skeleton)]
    page = skeleton.replace("STYLE-HASHES", _hashes(styles)).replace("SCRIPT-HASHES", _hashes(scripts))
    page = _STYLE.sub(lambda found: f"<style>{_asset(found[1])}</style>", page)
    page = _SCRIPT.sub(lambda found: f"<script>{_asset(found[1])}</script>", page)
    return page.replace(_CONTENT, _CONTENT.replace("><", f">{_as_data(content)}<"))


def _asset(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hashes(texts: list[str]) -> str:
    """As in https://www.w3.org/TR/CSP3/#grammardef-hash-source."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _as_data(content: Mapping[str, Any]) -> str:
    """JSON in which no text can end its script element, as in https://json-ld.org/spec/latest/json-ld/#script."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)
