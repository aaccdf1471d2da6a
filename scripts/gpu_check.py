"""Checks the CUDA path on one GPU against the CPU, and measures it. Under ten minutes.

    python scripts/gpu_check.py [--out DIR] [--only PARTS] [--quick] [--json]

correctness: from the same weights, predictions and the losses of the next steps, on the GPU and on
the CPU: plainly, through the sparse pipeline, and with tables in host memory behind caches.
steps: candidates/s in fp32, TF32 and bf16, by turns, on batches in memory; `recsys train` end to
end; waits of the host for the GPU within a step; a trace. kernels: bytes/s of FBGEMM's lookup
over those of a copy on the device.

`--device cpu` runs what needs no GPU, to see that the script works; its figures mean nothing.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from bench.steps import Training, read_batches
from bench.timing import Seconds
from rich.console import Console
from rich.table import Table

from recsys.config import Config, load_config
from recsys.data.fit import fit
from recsys.data.reader import Reader
from recsys.data.statistics import Statistics
from recsys.evaluation.score import load_model
from recsys.run_directory import RunDirectory
from recsys.training.ranks import Ranks, start_ranks

app = typer.Typer(add_completion=False)

Row = tuple[str, float | str, str]  # what, found, wanted
# fp32 sums in another order; after steps of training the differences have grown.
CLOSE_PROBABILITY, CLOSE_LOSS = 1e-4, 1e-3
LARGE = [
    "training.batch_candidates=8192",
    "model.sequence.dim=128",
    "model.sequence.layers=2",
    "model.projection.width=512",
    "model.experts.hidden=[1024, 512]",
]
CACHED = (
    "sharding.constraints={user: {kernels: [fused_uvm_caching], cache_load_factor: 0.1}, "
    "item: {kernels: [fused_uvm_caching], cache_load_factor: 0.1}}"
)


def recsys(*arguments: str, device: str) -> tuple[dict[str, Any], str]:
    """Runs a verb as a process that sees the GPU or not; its JSON, and its log."""
    command = [sys.executable, "-m", "recsys.cli", *arguments, "--json"]
    hidden = {} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **hidden}, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout), done.stderr


def sets(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


class Check:
    """Logs, runs and what was found; `folder` goes at the end, `out` stays."""

    def __init__(self, folder: Path, out: Path, device: str, quick: bool) -> None:
        self.folder, self.out, self.device, self.quick = folder, out, device, quick
        self.logs = folder / "logs"
        requests = 1_000 if quick else 20_000
        recsys("data", "simulate", str(self.logs), "--requests", str(requests), device="cpu")
        self.config_file = str(self.logs / "config.yaml")

    def train(self, name: str, *overrides: str, device: str, start: str | None = None) -> Path:
        """One epoch; the folder of the run."""
        run = self.folder / name
        common = sets("training.epochs=1", "training.log_every_steps=1", *overrides)
        warm = ["--warm-start", start] if start else []
        arguments = ["train", self.config_file, "--run", str(run), *common, *warm]
        _, log = recsys(*arguments, device=device)
        (self.out / f"{name}.log").write_text(log, encoding="utf-8")
        return run

    def correctness(self) -> list[Row]:
        """GPU against CPU, from the weights of one run on the CPU."""
        base = self.train("base", device="cpu")
        apart = predictions_apart(base, self.device)
        rows: list[Row] = [("predictions, largest |Δp|", apart, f"≤ {CLOSE_PROBABILITY:g}")]
        steps = 5 if self.quick else 50
        expected = losses(self.train("cpu", device="cpu", start=str(base)), steps)
        kinds = {
            "plain": ["training.pipeline=none"],
            "sparse pipeline": ["training.pipeline=sparse"],
        }
        if self.device == "cuda":
            kinds["cached tables, prefetched"] = [CACHED]
        for kind, overrides in kinds.items():
            name = kind.replace(", ", "-").replace(" ", "-")
            run = self.train(name, *overrides, device=self.device, start=str(base))
            found = losses(run, steps)
            apart = max(abs(a / b - 1) for a, b in zip(found, expected, strict=True))
            what = f"{kind}: loss of {steps} steps, largest relative Δ"
            rows.append((what, apart, f"≤ {CLOSE_LOSS:g}"))
            log = (self.out / f"{name}.log").read_text(encoding="utf-8")
            if line := re.search(r"\w+: \d+ of \d+ collections are pipelined", log):
                rows.append((f"{kind}: modules", line.group(), "all of them"))
        return rows

    def steps(self) -> list[Row]:
        """Speed of steps in each precision, waits for the device, a trace."""
        overrides = [f"data.root={self.logs}", *([] if self.quick else LARGE)]
        rows: list[Row] = []
        with start_ranks(timeout_seconds=300) as ranks:
            training = {}
            for precision in ("fp32", "tf32", "bf16"):
                config = load_config(
                    self.config_file, [*overrides, f"training.precision={precision}"]
                )
                training[precision] = OnDevice(config, ranks, 4 if self.quick else 16)
            rows += precisions(training, 2 if self.quick else 7)
            rows += waits(training["bf16"])
            rows += traced(training["bf16"], self.out / "trace.json")
        for pipeline in ("none", "sparse"):
            own = [*overrides, "training.precision=bf16", f"training.pipeline={pipeline}"]
            run = self.train(f"end-to-end-{pipeline}", *own, device=self.device)
            lines = [x for x in log_of(run) if x["event"] == "train"]
            first, last = lines[len(lines) // 4], lines[-1]
            speed = (last["candidates"] - first["candidates"]) / (last["time"] - first["time"])
            rows.append((f"recsys train, bf16, pipeline {pipeline}, candidates/s", speed, ""))
        return rows

    def kernels(self) -> list[Row]:
        """FBGEMM's pooled lookup with row-wise Adagrad, fp32, against a copy on the device."""
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
            ComputeDevice,
            EmbeddingLocation,
        )
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        device = torch.device(self.device)
        count, dim, bags, length = (
            (10_000, 128, 512, 20) if self.quick else (10**7, 128, 65_536, 20)
        )
        on_gpu = self.device == "cuda"
        place = EmbeddingLocation.DEVICE if on_gpu else EmbeddingLocation.HOST
        compute = ComputeDevice.CUDA if on_gpu else ComputeDevice.CPU
        table = SplitTableBatchedEmbeddingBagsCodegen(
            [(count, dim, place, compute)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=0.01,
            device=device,
        )
        ids = torch.randint(count, (bags * length,), device=device)
        offsets = torch.arange(0, bags * length + 1, length, device=device)
        gradient = torch.randn(bags, dim, device=device)
        source = torch.randn(count * dim // 8, device=device)
        target = torch.empty_like(source)
        row = 4 * dim
        copied = self.seconds(lambda: target.copy_(source))
        read = self.seconds(lambda: table(ids, offsets))
        both = self.seconds(lambda: table(ids, offsets).backward(gradient))
        copy_speed = 2 * 4 * source.numel() / copied
        read_speed = row * (ids.numel() + bags) / read
        return [
            ("copy on the device, GB/s", copy_speed / 1e9, ""),
            ("lookup forward, GB/s", read_speed / 1e9, ""),
            ("lookup forward over copy", read_speed / copy_speed, ""),
            ("lookup forward + backward + row-wise Adagrad, ms", 1e3 * both, ""),
        ]

    def seconds(self, run: Callable[[], object], rounds: int = 20) -> float:
        """The median time of a run, on the device."""
        run()
        found = []
        for _ in range(rounds):
            synchronize(self.device)
            began = time.perf_counter()
            run()
            synchronize(self.device)
            found.append(time.perf_counter() - began)
        return median(found)


class OnDevice(Training):
    """Training on batches that are on the device already."""

    def __init__(self, config: Config, ranks: Ranks, most: int) -> None:
        statistics = fit(config)
        batches = read_batches(config, most, statistics)
        if not batches:
            raise RuntimeError("the logs have no full batch: lower training.batch_candidates")
        super().__init__(config, ranks, batches)
        self.model.fit_numbers(statistics.numbers)
        # Ranks agree on the host; the copy to the device is not what is measured here.
        self.totals = [self.stepper.totals(batch, stop=False) for batch in batches]
        self.batches = [batch.to(ranks.device) for batch in batches]

    def run(self) -> Seconds:
        """Trains on every batch once."""
        device = self.stepper.ranks.device.type
        synchronize(device)
        began = time.perf_counter()
        for batch, totals in zip(self.batches, self.totals, strict=True):
            self.stepper.step(batch, totals, self.steps, 0.0)
            self.steps += 1
        synchronize(device)
        took = time.perf_counter() - began
        return Seconds(took, took)


@torch.inference_mode()
def predictions_apart(path: Path, device: str) -> float:
    """The largest difference of a probability of the test split, on the device and on the CPU."""
    run = RunDirectory.open(path)
    config, statistics = run.config, Statistics.load(run.statistics)
    here, there = load_model(run, config), load_model(run, config).to(device)
    apart = torch.zeros(())
    with Reader(config, "test", statistics, shuffle=False, batch_candidates=4096) as reader:
        for batch in reader:
            expected = here(batch).probabilities()
            found = there(batch.to(torch.device(device))).probabilities()
            # Unlike max(), keeps a NaN.
            apart = torch.maximum(apart, (found.cpu() - expected).abs().max())
    return float(apart)


def precisions(training: dict[str, OnDevice], rounds: int) -> list[Row]:
    """Candidates/s of each, by turns; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in training}
    for number in range(rounds + 1):
        for name, each in training.items():
            took = each.run().wall
            if number:
                seconds[name].append(took)
    rows: list[Row] = []
    for name, each in training.items():
        speed = each.rows / median(seconds[name])
        ratio = median(a / b for a, b in zip(seconds["fp32"], seconds[name], strict=True))
        rows.append((f"steps in {name}, candidates/s", speed, ""))
        if name != "fp32":
            rows.append((f"steps in {name}, over fp32", ratio, ""))
    return rows


def waits(training: OnDevice) -> list[Row]:
    """How often the host waits for the GPU in a step, by PyTorch's own count."""
    if not torch.cuda.is_available():
        return [("waits of the host in a step", "not on a CPU", "0")]
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            training.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{w.filename}:{w.lineno}" for w in found if "synchroniz" in str(w.message)]
    # `run` itself waits at its begin and end, which PyTorch does not count.
    for place in sorted(set(places)):
        print(f"  waits at {place}: {places.count(place)}", file=sys.stderr)
    return [("waits of the host in a step", len(places) / len(training.batches), "0")]


def traced(training: OnDevice, path: Path) -> list[Row]:
    """Writes a trace for https://ui.perfetto.dev; the share of the time that the GPU is busy."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        took = training.run().wall
    profiler.export_chrome_trace(str(path))
    rows: list[Row] = [("trace", str(path), "")]
    if torch.cuda.is_available():
        busy = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
        rows.append(("kernels' time over the step's, bf16, while traced", busy / took, ""))
    return rows


def log_of(run: Path) -> list[dict[str, Any]]:
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def losses(run: Path, steps: int) -> list[float]:
    """The loss of each of the first steps."""
    found = [float(line["loss"]) for line in log_of(run) if line["event"] == "train"]
    if len(found) < steps:
        raise RuntimeError(f"{run}: {len(found)} steps, {steps} are compared")
    return found[:steps]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def failed(rows: list[Row]) -> list[str]:
    """What is not as wanted, of what has a bound."""
    bounds = [(what, found, re.fullmatch(r"≤ (.+)", wanted)) for what, found, wanted in rows]
    return [
        f"{what}: {found:.3g}, wanted {bound.group()}"
        for what, found, bound in bounds
        if bound and isinstance(found, float) and not found <= float(bound.group(1))
    ]


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="For logs of the runs and the trace")] = Path(
        "gpu_check"
    ),
    only: Annotated[str, typer.Option(help="Parts, by commas")] = "correctness,steps,kernels",
    device: Annotated[str, typer.Option(help="cuda or cpu")] = "cuda",
    quick: Annotated[bool, typer.Option("--quick", help="Small: checks that all runs")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Checks and measures the CUDA path."""
    if device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device; `--device cpu --quick` tries the script itself", file=sys.stderr)
        raise typer.Exit(2)
    out.mkdir(parents=True, exist_ok=True)
    began = time.time()
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU: these figures mean nothing"
    rows: list[Row] = [("device", name, ""), ("torch", torch.__version__, "")]
    with tempfile.TemporaryDirectory() as folder:
        check = Check(Path(folder), out, device, quick)
        parts = {"correctness": check.correctness, "steps": check.steps, "kernels": check.kernels}
        for part in only.split(","):
            if part not in parts:
                print(
                    f"--only {only}: no part {part}; there are {', '.join(parts)}", file=sys.stderr
                )
                raise typer.Exit(2)
        for part in only.split(","):
            print(f"{part} …", file=sys.stderr)
            rows += parts[part]()
    rows.append(("seconds in all", time.time() - began, "≤ 600"))
    wrong = failed(rows)
    if as_json:
        print(json.dumps({"rows": rows, "failed": wrong}))
    else:
        table = Table("what", "found", "wanted")
        for what, found, wanted in rows:
            table.add_row(what, f"{found:,.4g}" if isinstance(found, float) else found, wanted)
        Console().print(table)
    for line in wrong:
        print(f"FAILED {line}", file=sys.stderr)
    raise typer.Exit(1 if wrong else 0)


if __name__ == "__main__":
    app()
