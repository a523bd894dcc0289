"""Take the pictures of the comparison page and of MLflow in the guides, from a run of the quickstart, with Chromium.

    rayvldd sweep search_spaces/quickstart.yaml
    rayvldd coreset search_spaces/quickstart.yaml --method random,herding,k_center,k_means --pairs 50,100,200 \
        --students 3 --split test --no-full-data
    python tests/benchmarks/screenshots.py

Needs Debian's chromium. The pictures are those of ``search_spaces/pictures``.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect, Page

PICTURES = Path(__file__).parents[2] / "search_spaces" / "pictures"
STUDY = "quickstart"
MOST_BYTES = 300_000
LEFT_OUT = (
    ".tools, .plot.history, .plot.marginals, .plot.similarity, #sets-1, #study-1 .hint, #study-1 .scroll + p,"
    " #study-1 .scroll:has(#study-1-trials), #study-1 h3:has(+ .tools + .scroll #study-1-trials)"
)
"""Parts of the page that its second picture leaves out: tables, and plots beyond a row of three."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path("rayvldd_workspace"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the pictures; default: %(default)s")
    parser.add_argument("--port", type=int, default=5000, help="port of MLflow's server; default: %(default)s")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        parser.error("no chromium on this machine: apt-get install chromium")
    if not (options.workspace / "studies" / STUDY / "result.json").is_file():
        parser.error(f"{options.workspace} has no finished {STUDY}: rayvldd sweep search_spaces/quickstart.yaml")
    from playwright.sync_api import sync_playwright

    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])  # root has no sandbox
        take_comparison(browser, options.workspace, options.out)
        with mlflow_at(options.workspace, options.port) as address:
            take_mlflow(browser, address, options.out)
        browser.close()


def take_comparison(browser: "Browser", workspace: Path, out: Path) -> None:
    """The first screen of the page, and in one picture its parts on real pairs, the search and the set."""
    # In the folder of the workspace: the page shows the command, and a path of this machine says nothing to others.
    command = [sys.executable, "-m", "rayvldd", "compare", STUDY]
    command += [] if workspace.name == "rayvldd_workspace" else ["--workspace", workspace.name]
    subprocess.run(command, cwd=workspace.resolve().parent, check=True, stdout=subprocess.DEVNULL)
    file = (workspace / "comparison" / "compare.html").resolve().as_uri()
    page = browser.new_page(viewport={"width": 1280, "height": 960})
    page.goto(file)
    save(page, out / "page.webp")
    page.set_viewport_size({"width": 1120, "height": 960})
    page.add_style_tag(content=f"{LEFT_OUT} {{ display: none !important; }}")
    top = box_of(page, "#pairs-heading")["y"]
    row = box_of(page, "#study-1-gallery li:nth-child(6)")
    height = row["y"] + row["height"] + 8 - top
    save(page, out / "compare.webp", {"x": 0, "y": top, "width": 1120, "height": height})
    page.close()


def take_mlflow(browser: "Browser", address: str, out: Path) -> None:
    """The trials of the study, the best first, and the overview of the best."""
    page = browser.new_page(viewport={"width": 1360, "height": 700})
    page.goto(address)
    first = page.get_by_role("link", name=f"{STUDY}/").first
    first.wait_for(timeout=120_000)
    page.get_by_text("matching runs").wait_for()
    close_assistant(page)
    page.wait_for_timeout(2_000)  # the table moves while its columns are measured
    save(page, out / "mlflow_trials.webp")
    page.set_viewport_size({"width": 1360, "height": 640})
    first.click()
    page.get_by_text("mean recall on validation").wait_for(timeout=120_000)
    page.get_by_text("Show more").first.click()
    page.wait_for_function("[...document.images].every((image) => image.complete && image.naturalWidth)")
    page.wait_for_timeout(2_000)
    save(page, out / "mlflow_run.webp")
    page.close()


def close_assistant(page: "Page") -> None:
    """Close MLflow's chat, which covers a part of a browser's first page."""
    button = page.locator('[data-component-id="mlflow.assistant.chat_panel.close"]')
    if button.count():
        button.first.click()


@contextmanager
def mlflow_at(workspace: Path, port: int) -> Iterator[str]:
    """Run ``rayvldd ui`` for the duration of the block; yields the address of the study's trials."""
    words = ("ui", STUDY, "--workspace", str(workspace), "--port", str(port), "--no-browser")
    command = [sys.executable, "-m", "rayvldd", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout
        try:
            for line in server.stdout:
                if found := re.search(r"http://\S+#/\S+", line):
                    yield found[0]
                    break
            else:
                raise SystemExit(f"rayvldd {' '.join(words)} named no address; run it to see why")
        finally:
            server.terminate()


def box_of(page: "Page", selector: str) -> "FloatRect":
    """Position of the first element on the whole page."""
    box = page.locator(selector).first.bounding_box()
    assert box is not None, f"{selector} is not shown"
    return box


def save(page: "Page", file: Path, clip: "FloatRect | None" = None) -> None:
    """Write what the window shows, or a part of the page, as WebP below the limit of the guides."""
    taken = page.screenshot(clip=clip, full_page=clip is not None)
    with Image.open(io.BytesIO(taken)) as image:
        image.convert("RGB").save(file, quality=80, method=6)
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{file} has {size:,} bytes; allowed: {MOST_BYTES:,}. Make its window smaller")
    print(f"{file}  {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
