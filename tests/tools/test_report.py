import re
import shutil
import subprocess

import numpy as np
import pytest
from scipy import stats

from jtrpo.tools.cli import main
from jtrpo.tools.report import bootstrap_interval, report
from jtrpo.tools.run_directory import read_summary

BROWSER = shutil.which("chromium")


@pytest.fixture(scope="module")
def page(runs):
    return report(runs)


def test_the_page_needs_nothing_else(page):
    assert not re.search(r"<(link|script|img|iframe)\b|@import|url\((?!#)", page)
    assert page.count("<svg") == 6 + 3  # of the environment's own number
    assert "<b>metrics.discount.last</b>" in page


def test_the_evaluation_is_that_of_the_runs(runs, page):
    first, second = re.findall(r"<tr><td>(max_kl=.*?)</tr>", page)
    cells = re.sub("<.*?>", "|", first).split("|")
    means = [read_summary(folder)["evaluation_return"] for folder in runs[:2]]
    assert cells[0] == "max_kl=0.01"
    assert f"{np.mean(means):.1f}" in cells
    assert f"{min(means):.1f} to {max(means):.1f}" in cells  # of two seeds the interval can only be the two
    assert second.startswith("max_kl=0.05")
    assert "<dt>num_envs</dt><dd>4</dd>" in page
    assert "<dt>max_kl</dt>" not in page  # in which they differ


def test_runs_without_an_end_are_told(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    assert "1 run did not reach the end" in report([tmp_path / "run"])


def test_names_are_escaped(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(file.read_text().replace("CartPole-v1", "<b>Cart</b>"))
    assert "<b>Cart" not in report([tmp_path / "run"])


def test_the_interval_is_scipys():
    values = np.random.default_rng(3).gamma(2.0, size=40)
    ours = bootstrap_interval(values)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    np.testing.assert_allclose(ours, theirs, atol=0.05 * (theirs[1] - theirs[0]))


def test_the_command_writes_the_page_and_names_what_is_wrong(runs, tmp_path, capsys):
    file = tmp_path / "report.html"
    main(["report", *map(str, runs), "--out", str(file)])
    assert file.read_text().startswith("<!doctype html>")
    for arguments, word in (
        ([], "at least one folder"),
        ([str(tmp_path)], "config.json"),
        ([str(runs[0]), "--out", "x.pdf"], ".html"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["report", *arguments])
        assert caught.value.code == 2
        assert word in capsys.readouterr().err


@pytest.mark.skipif(BROWSER is None, reason="no chromium")
@pytest.mark.parametrize(("width", "columns"), [pytest.param(1280, 3, marks=pytest.mark.long), (500, 1)])
def test_in_a_browser_it_fits_its_window(page, tmp_path, width, columns):
    """Nothing but the table scrolls sideways, and the curves stand side by side where there is room."""
    probe = (
        "<script>document.title = [document.documentElement.scrollWidth <= innerWidth, innerWidth,"
        "getComputedStyle(document.querySelector('.curves')).gridTemplateColumns.split(' ').length]</script></body>"
    )
    file = tmp_path / "report.html"
    file.write_text(page.replace("</body>", probe))
    dump = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    assert re.search("<title>(.*?)</title>", dump)[1] == f"true,{width},{columns}"
