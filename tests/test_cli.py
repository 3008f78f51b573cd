"""The command line on a small study: every command, its formats, its exit codes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

REPO = Path(__file__).resolve().parent.parent


def ftprobe(*argv: str, store: Path | None = None) -> subprocess.CompletedProcess[str]:
    more = ["--store", str(store)] if store else []
    env = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-m", "ftprobe.cli", *argv, *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False, env=env)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("cli")
    document = yaml.safe_load((REPO / "sweeps" / "quickstart.yaml").read_text())
    document["models"]["minilm"]["checkpoint"] = minilm
    document["finetune"][0].update(train_items=32, dev_items=16, epochs=1, seed=[0, 1, 2])
    for entry in document["probe"]:
        entry.update(train_items=100, dev_items=30, test_items=30, probe={"kind": "linear", "strength": [0.01]})
    path = folder / "quickstart.yaml"
    path.write_text(yaml.safe_dump(document))
    store = folder / "store"
    done = ftprobe("run", str(path), "--inline", "--threads", "1", "--offline", store=store)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(path), store


def test_run_reports_counts_and_a_second_run_reuses_all(study: tuple[str, Path]) -> None:
    path, store = study
    again = ftprobe("run", path, "--inline", "--offline", store=store)
    assert again.returncode == 0
    assert "3 reused" in again.stdout
    assert "done" not in again.stdout


def test_tables_in_every_format(study: tuple[str, Path], tmp_path: Path) -> None:
    path, store = study
    shown = ftprobe("table", path, store=store)
    assert shown.returncode == 0, shown.stderr
    assert "n = 3" in shown.stdout
    assert "±" in shown.stdout
    for style in ("md", "csv", "latex", "html", "parquet"):
        done = ftprobe("table", path, "delta", "--format", style, "--out", str(tmp_path / style), store=store)
        assert done.returncode == 0, done.stderr
        (written,) = (tmp_path / style).iterdir()
        assert str(written) in done.stdout
        assert written.stat().st_size > 100


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(study: tuple[str, Path], tmp_path: Path) -> None:
    path, store = study
    table = ftprobe("table", path, "delta", "--format", "latex", store=store).stdout
    page = "\\documentclass[a3paper,landscape]{article}\\usepackage{booktabs}\\begin{document}\n%s\n\\end{document}\n"
    (tmp_path / "page.tex").write_text(page % table)
    argv = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_figures_and_the_report_page(study: tuple[str, Path], tmp_path: Path) -> None:
    path, store = study
    done = ftprobe("figure", path, "--format", "svg", "--out", str(tmp_path), store=store)
    assert done.returncode == 0, done.stderr
    assert all("<svg" in file.read_text()[:2000] for file in tmp_path.glob("*.svg"))
    assert list(tmp_path.glob("*.svg"))
    page = tmp_path / "report.html"
    assert ftprobe("report", path, "--out", str(page), store=store).returncode == 0
    text = page.read_text()
    assert "quickstart" in text
    assert 'src="http' not in text
    assert "<table" in text


OWN = """
import polars as pl
from ftprobe.report import Report
from ftprobe.tables import layout

def items(records, predictions):
    rows = records.filter(pl.col("metric") == "accuracy", pl.col("method") == "linear").collect()
    right = (pl.col("gold") == pl.col("predicted")).mean()
    scored = predictions(rows["trial"]).group_by("trial", "layer").agg(right=right).collect()
    both = rows.join(scored, on=["trial", "layer"], how="left")
    off = both.select((pl.col("value") - pl.col("right")).abs().max()).item()
    said = {"a": ["all"], "column": ["off"], "text": [f"{both.height} rows, {off:.3f}"], "mean": [None]}
    return layout(pl.DataFrame(said), title="Items", rows={"a": "a"}, columns=["column"])

REPORT = Report("own", "Own", tables={"items": items}, figures={})
"""


def test_an_own_analysis_reads_predictions(study: tuple[str, Path], tmp_path: Path) -> None:
    path, store = study
    document = {**yaml.safe_load(Path(path).read_text()), "report": "own"}
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "quickstart.yaml").write_text(yaml.safe_dump(document))
    done = ftprobe("table", str(tmp_path / "quickstart.yaml"), "items", store=store)
    assert done.returncode == 0, done.stderr
    assert "140 rows, 0.000" in done.stdout
    page = tmp_path / "report.html"
    assert ftprobe("report", str(tmp_path / "quickstart.yaml"), "--out", str(page), store=store).returncode == 0
    assert "140 rows, 0.000" in page.read_text()


def test_the_analysis_of_the_readme(study: tuple[str, Path], tmp_path: Path) -> None:
    path, store = study
    section = (REPO / "README.md").read_text().partition("## Tables of your own")[2].partition("\n## ")[0]
    code = [line.removeprefix("    ") for line in section.splitlines() if line.startswith("    ") or not line]
    (tmp_path / "mine.py").write_text("\n".join(code))
    document = {**yaml.safe_load(Path(path).read_text()), "report": "mine"}
    (tmp_path / "quickstart.yaml").write_text(yaml.safe_dump(document))
    done = ftprobe("table", str(tmp_path / "quickstart.yaml"), "words", store=store)
    assert done.returncode == 0, done.stderr
    assert "| label | pre-trained |" in done.stdout
    assert "| NOUN " in done.stdout


def test_records_are_tidy(study: tuple[str, Path], tmp_path: Path) -> None:
    path, store = study
    target = tmp_path / "records.parquet"
    assert ftprobe("records", path, "--out", str(target), store=store).returncode == 0
    frame = pl.read_parquet(target)
    assert set(frame["study"].unique()) == {"quickstart"}
    assert set(frame["model"].drop_nulls().unique()) == {"minilm"}
    probes = frame.filter((pl.col("method") == "linear") & (pl.col("metric") == "accuracy"))
    assert probes.height == 4 * 5 * 7
    assert set(probes["layer"].to_list()) == set(range(7))
    assert set(probes["status"].unique()) <= {"ok", "not_converged"}
    csv = ftprobe("records", path, store=store).stdout
    assert len(csv.strip().split("\n")) == frame.height + 1
    assert ftprobe("records", path, "--out", str(tmp_path / "x.xlsx"), store=store).returncode == 2


def test_status_and_doctor(study: tuple[str, Path], tmp_path: Path) -> None:
    path, store = study
    done = ftprobe("status", path, store=store)
    assert done.returncode == 0
    assert "probe" in done.stdout
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    assert ftprobe("doctor", store=copy).returncode == 0
    shard = next((copy / "artifacts" / "activations").glob("*/layer-01-000.arrow"))
    data = bytearray(shard.read_bytes())
    data[-200] ^= 0x01
    shard.write_bytes(bytes(data))
    hurt = ftprobe("doctor", store=copy)
    assert hurt.returncode == 1
    assert shard.parent.name in hurt.stderr
    assert not shard.exists()


def test_shipped_recipes_are_listed_and_copied(tmp_path: Path) -> None:
    listed = ftprobe("ls").stdout
    assert all(name in listed for name in ("quickstart", "mosbach2020", "mosbach2020_minilm", "cola", "linear"))
    done = ftprobe("cp", "mosbach2020", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"mosbach2020.yaml", "mosbach2020.py"}
    assert ftprobe("cp", "mosbach2020", str(tmp_path)).returncode == 2
    assert ftprobe("cp", "zhou2022", str(tmp_path / "two")).returncode == 0
    assert {file.name for file in (tmp_path / "two").iterdir()} == {
        "zhou2022.yaml",
        "zhou2022.py",
        "zhou2022_claims.py",
        "zhou2022_figures.py",
        "zhou2022_layers.py",
        "zhou2022_schematic.py",
    }
    unknown = ftprobe("cp", "mosbach", str(tmp_path))
    assert unknown.returncode == 2
    assert "mosbach2020" in unknown.stderr


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["plan", "no-such.yaml"], "no-such.yaml"),
        (["plan"], "study"),
        (["nothing"], "nothing"),
        (["run", "x.yaml", "--colour"], "colour"),
    ],
)
def test_bad_arguments_exit_with_2(argv: list[str], named: str) -> None:
    done = ftprobe(*argv)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_tables_of_a_study_that_never_ran(study: tuple[str, Path], tmp_path: Path) -> None:
    path, _ = study
    done = ftprobe("table", path, store=tmp_path / "empty")
    assert done.returncode == 2
    assert "ftprobe run" in done.stderr


def test_unknown_table_and_format(study: tuple[str, Path]) -> None:
    path, store = study
    assert "did you mean 'delta'" in ftprobe("table", path, "delt", store=store).stderr
    assert "latex" in ftprobe("table", path, "--format", "latx", store=store).stderr
