"""A page opened in headless Chromium: what its scripts do, and whether it asks for the network."""

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM: str | None = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
"""The browser's program: the variable CHROMIUM, else what the PATH has; None without one."""

_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--window-size=1200,2000", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip

_HEAD = """<script>
window.failures = [];
addEventListener("error", (event) => failures.push(String(event.message ?? event.target?.src)), true);
addEventListener("unhandledrejection", (event) => failures.push(String(event.reason)));
</script>"""

_TAIL = """<script>
addEventListener("load", async () => {
  let value = null;
  try { value = await (async () => { %s })(); } catch (error) { failures.push(`script: ${error.stack ?? error}`); }
  const asked = performance.getEntriesByType("resource").map((entry) => entry.name);
  const requests = asked.filter((name) => !/^(data|blob):/.test(name));
  const result = document.createElement("pre");
  result.id = "browser-result";
  result.textContent = JSON.stringify({ value, failures, requests });
  document.body.append(result);
});
</script>"""


@dataclass(frozen=True)
class Opened:
    """What came of a page."""

    value: Any
    """What the script returned."""
    failures: list[str]
    """Errors that nothing on the page caught."""
    requests: list[str]
    """Addresses that the page asked for, other than itself."""


def open_page(page: Path, script: str = "", seconds: int = 60) -> Opened:
    """Open a copy of ``page``, run the body of an asynchronous JavaScript function once it has loaded, and tell.

    ``script`` may click and await; what it returns must be what JSON can hold. Raises ``RuntimeError`` when the browser
    gives no answer in ``seconds``.
    """
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<head>", lambda head: head[0] + _HEAD, text, count=1)
    place = text.rindex("</body>")
    text = text[:place] + _TAIL % script + text[place:]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(text, encoding="utf-8")
        command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={folder}/profile", "--virtual-time-budget=20000"]
        done = subprocess.run(
            [*command, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=seconds, check=False
        )
    found = re.findall(r'<pre id="browser-result">(.*?)</pre>', done.stdout, re.DOTALL)
    if not found:
        raise RuntimeError(f"{CHROMIUM} gave no answer for {page} (exit {done.returncode}): {done.stderr[-500:]}")
    return Opened(**json.loads(html.unescape(found[-1])))
