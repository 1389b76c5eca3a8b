"""The report in a real browser: it loads without a console error, and its images and recordings
decode."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.fabricated_run import fabricate_run
from vita_train.report.render import render_report

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (apt-get install chromium)")


def browse(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    return subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--v=0",
            f"--user-data-dir={page.parent / 'profile'}",
            "--virtual-time-budget=3000",
            *flags,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.parametrize("fails", [None, "1.3"])
def test_the_page_loads_without_console_errors(tmp_path: Path, fails: str | None) -> None:
    page = render_report(
        fabricate_run(tmp_path, fails=fails, text="<b>&amp;</b><script>throw 1</script>")
    )
    seen = browse(page, "--dump-dom")
    assert not re.findall(r":CONSOLE[(:].*", seen.stderr), seen.stderr
    assert "</html>" in seen.stdout
    assert seen.stdout.count('<svg class="chart"') >= 5


def test_pictures_and_recordings_decode(tmp_path: Path) -> None:
    page = render_report(fabricate_run(tmp_path))
    probe = """<script>addEventListener("load", () => {
      const images = [...document.images].map((i) => i.naturalWidth);
      const players = [...document.querySelectorAll("audio")];
      const sounds = players.map((a) => a.error ? "error" : Math.round(10 * a.duration));
      document.body.dataset.images = images.join(); document.body.dataset.sounds = sounds.join();
    });</script></body>"""
    page.write_text(page.read_text().replace("</body>", probe).replace(' loading="lazy"', ""))
    dom = browse(page, "--dump-dom").stdout
    assert 'data-images="64,64,64,64"' in dom
    assert 'data-sounds="14,24,19,29,24,34"' in dom


def test_links_scroll_inside_the_frame_of_kubeflows_page(tmp_path: Path) -> None:
    """The UI puts an HTML artifact into the srcdoc of a frame with ``sandbox="allow-scripts"``."""
    page = render_report(fabricate_run(tmp_path))
    probe = """<script>addEventListener("load", () => {
      document.querySelector('nav a[href="#recipe"]').click();
      parent.postMessage([document.title, document.documentElement.scrollTop > 0], "*");
    });</script></body>"""
    inner = html.escape(
        page.read_text().replace("</body>", probe).replace("smooth", "instant"), quote=True
    )
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<body><script>addEventListener('message', "
        "(event) => { document.body.dataset.said = event.data.join(); });</script>"
        f'<iframe sandbox="allow-scripts" width="500" height="600" srcdoc="{inner}"></iframe>'
        "</body>"
    )
    dom = browse(outer, "--dump-dom", "--virtual-time-budget=20000").stdout
    assert re.search(r'<body data-said="[^"]+,true"', dom), dom[:300] + dom[-300:]
