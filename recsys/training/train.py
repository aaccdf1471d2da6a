"""The story of a training run."""

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from torch import Tensor

from recsys.config import Config
from recsys.data.reader import Reader, empty_batch
from recsys.data.statistics import Statistics
from recsys.errors import RunError, UserError
from recsys.files import write_json
from recsys.logs import steps_in_logs
from recsys.run_directory import RunDirectory
from recsys.training import checkpoint
from recsys.training.checkpoint import Progress, accumulators
from recsys.training.metrics_log import MetricsLog, ProgressBar
from recsys.training.optimizers import (
    DenseOptimizer,
    SparseRate,
    check_one_optimizer_each,
    dense_parameters,
)
from recsys.training.ranks import Ranks, start_ranks
from recsys.training.same_data import check_same_data
from recsys.training.sharded import build_sharded_model, unwrap
from recsys.training.start import fitted_statistics, prepare_run
from recsys.training.step import Lockstep, Stepper, StepResult
from recsys.training.steps import Agreement, choose_steps
from recsys.training.stop import StopFlag, stop_signals
from recsys.training.validation import is_better, monitored, validate
from recsys.training.warm_start import print_parts, summary, warm_start

log = logging.getLogger(__name__)


def train(
    config: Config, run_path: Path, *, resume: bool = False, plan: Path | None = None
) -> dict[str, Any]:
    """Trains one model on all surfaces; under torchrun, as one of its ranks.

    `plan` is the file of a sharding plan; without one, the run makes its own, or goes on with the
    one it has.

    Returns a JSON-able summary with the best validation metrics. Raises `UserError` for wrong
    input, `RunError` when the loss is not finite.
    """
    with start_ranks(config.training.timeout_seconds, config.training.threads) as ranks:
        run = RunDirectory(run_path)
        resume = prepare_run(config, run, resume, ranks, plan)
        statistics = fitted_statistics(config, run, ranks)
        trainer = Trainer(config, run, statistics, ranks, plan)
        if not (resume and trainer.resume()) and config.training.warm_start is not None:
            trainer.warm_start(config.training.warm_start)
        with stop_signals() as stop, steps_in_logs(lambda: trainer.progress.step):
            return trainer.fit(stop)


class Trainer:
    """A model in training, everything that a checkpoint holds, and the loop over epochs."""

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        statistics: Statistics,
        ranks: Ranks,
        plan_file: Path | None = None,
    ) -> None:
        self.config = config
        self.run = run
        self.statistics = statistics
        self.ranks = ranks
        self.model, plan = build_sharded_model(config, ranks, given=plan_file, before=run.plan)
        unwrap(self.model).fit_numbers(statistics.numbers)
        parameters = dense_parameters(self.model)
        check_one_optimizer_each(self.model, parameters)
        section = config.training
        self.dense = DenseOptimizer(parameters, section.dense, section.calibration, section.balance)
        sparse = SparseRate(self.model, config.training.sparse.lr, config.training.dense.decay)
        self.stepper = Stepper(self.model, self.dense, sparse, config, ranks)
        self.progress = Progress(
            world=ranks.world, threads=torch.get_num_threads(), plan=plan.dump()
        )
        self.progress.monitor = config.training.early_stopping.monitor
        saving = config.training.checkpoint
        self.writer = checkpoint.Writer(
            run.checkpoints,
            ranks,
            saving.keep,
            background=saving.in_background,
            timeout_seconds=config.training.timeout_seconds,
        )
        self.steps = choose_steps(config, plan, ranks)
        if ranks.first:
            write_json(run.plan, self.progress.plan)

    def warm_start(self, source: str) -> None:
        """Takes the weights of another run where they match (collective)."""
        model = unwrap(self.model)
        with self.ranks.together():
            parts = warm_start(model, self.model.state_dict(), self.statistics, Path(source))
        if self.ranks.first:
            write_json(self.run.warm_start, summary(source, parts))
            print_parts(parts, Console(stderr=True))

    def tensors(self) -> dict[str, Any]:
        """Everything of a checkpoint that is a tensor."""
        return {
            "model": self.model.state_dict(),
            "sparse": self.model.fused_optimizer.state_dict(),
            "dense": self.dense.state_dict(),
            "random": checkpoint.random_state(self.ranks),
        }

    def save(self, remaining: list[Any] | None, *, wait: bool = False) -> None:
        """Writes a checkpoint; `remaining` is what this rank has left of the epoch (collective).

        With `wait` it is there when this returns.
        """
        self.stepper.check_finite(self.progress.step)  # no checkpoint of a model that is lost
        self.progress.remaining = None if remaining is None else self.ranks.gather(remaining)
        self.writer.save(self.tensors(), self.progress, wait=wait)

    def resume(self) -> bool:
        """Goes on from the newest whole checkpoint; False if there is none (collective)."""
        folder = self.run.checkpoints
        newest = None
        with self.ranks.after_first():
            if self.ranks.first:
                checkpoint.tidy(folder)
                newest = checkpoint.latest(folder)
                if newest is None and (all_of_them := checkpoint.steps(folder)):
                    raise UserError(
                        f"{folder}: none of its {len(all_of_them)} checkpoints is whole; bring one "
                        "back from a copy, or start a new --run"
                    )
        found = self.ranks.gather(newest)[0]
        if not isinstance(found, Path):
            return False
        saved = checkpoint.read_progress(found)
        self._restore(found, saved)
        for what in ("world", "threads", "plan"):
            if self.ranks.first and getattr(saved, what) != getattr(self.progress, what):
                log.warning(
                    "resumed with another %s than the checkpoint's: training goes on, but not bit "
                    "for bit as it would have",
                    what,
                )
            setattr(saved, what, getattr(self.progress, what))
        if self.ranks.first:
            # A process that was killed may have written this before or after the checkpoint.
            checkpoint.mark_best(folder, saved.best_step, saved.monitor, saved.best_value)
        if saved.monitor != self.progress.monitor:
            if self.ranks.first and saved.best_step is not None:
                log.warning(
                    "training.early_stopping.monitor: was %s and is %s: step %d stays the best "
                    "until the next validation, which is compared with none before",
                    saved.monitor,
                    self.progress.monitor,
                    saved.best_step,
                )
            saved.monitor = self.progress.monitor
            saved.best_value, saved.epochs_without_better = None, 0
        self.progress = saved
        if self.ranks.first:
            log.info("resumed from %s, epoch %d", found, saved.epoch + 1)
        return True

    def _restore(self, found: Path, saved: Progress) -> None:
        """Fills the model, both optimizers and the random generators from a checkpoint."""
        tensors = self.tensors()
        if saved.world != self.progress.world:
            del tensors["random"]
        tables = accumulators.tables_to_convert(saved.plan, self.progress.plan)
        states = accumulators.take_out(tensors["sparse"], tables)
        if not tensors["sparse"]["state"]:  # a rank whose every table is converted
            del tensors["sparse"]  # DCP would look for an empty dict in the checkpoint
        # The optimizers' and the tables' tensors are the ones in use, and filled in place.
        checkpoint.load(found, tensors, alone=self.ranks.world == 1)
        accumulators.convert(found, states, tables)
        if self.ranks.first:
            accumulators.log_rule(tables)
        self.model.load_state_dict(tensors["model"])
        if "random" in tensors:
            checkpoint.set_random_state(tensors["random"], self.ranks)

    def fit(self, stop: StopFlag) -> dict[str, Any]:
        """Trains the epochs that are left."""
        config, progress = self.config, self.progress
        patience = config.training.early_stopping.patience
        metrics_log = MetricsLog(
            self.run.metrics,
            self.run.tensorboard,
            after=progress.step,
            mid_epoch=progress.remaining is not None,
            active=self.ranks.first,
        )
        try:
            while progress.to_validate or (
                progress.epoch < config.training.epochs
                and progress.epochs_without_better < patience
            ):
                if not progress.to_validate:
                    self.epoch(stop, metrics_log)
                self.end_of_epoch(stop, metrics_log)
            self.writer.wait()
        except Exception:
            self.writer.close()
            raise
        finally:
            metrics_log.close()
        return {
            "run": str(self.run.path),
            "steps": progress.step,
            "epochs": progress.epoch,
            "candidates": progress.candidates,
            "best_step": progress.best_step,
            "monitor": config.training.early_stopping.monitor,
            "best_value": progress.best_value,
            "checkpoints": asdict(self.writer.cost),
        }

    def epoch(self, stop: StopFlag, metrics_log: MetricsLog) -> None:
        """Trains what is left of the current epoch."""
        config, progress, ranks = self.config, self.progress, self.ranks
        with ranks.together():
            reader = Reader(
                config,
                "train",
                self.statistics,
                rank=ranks.rank,
                world=ranks.world,
                sample=True,
                epoch=progress.epoch,
                remaining=progress.remaining,
                batch_candidates=config.training.batch_candidates,
                pin_memory=ranks.device.type == "cuda",
            )
            check_same_data(progress.data, "train", reader.split)
        total = reader.split.requests
        left = sum(int(x) for x in ranks.gather(reader.requests))  # type: ignore[call-overload]
        label = f"epoch {progress.epoch + 1}/{config.training.epochs}"
        expected = round(reader.split.candidates * left / max(1, total))
        window = _Window(self)
        every = config.training.checkpoint.every_steps
        position: list[Any] | None = None  # after the last step of this process
        with reader, ProgressBar(label, expected, active=ranks.first) as bar:
            batches = Lockstep(iter(reader), empty_batch(reader.layout), torch.device("cpu"))
            agreement = Agreement(
                self.stepper,
                batches,
                stop=lambda: stop.name is not None,
                fault=lambda: self.writer.failed,
            )

            def schedule() -> tuple[int, float]:
                done = (progress.epoch + 1 - left / max(1, total)) / config.training.epochs
                return progress.step, done

            steps = self.steps(self.stepper, agreement, schedule, ranks)
            for batch, totals, result in steps:
                left -= totals.requests
                position = batch.position
                progress.step += 1
                progress.candidates += totals.candidates
                bar.advance(totals.candidates)
                window.add(result, totals.candidates)
                if progress.step % config.training.log_every_steps == 0:
                    self.stepper.check_finite(progress.step)
                    record = window.close()
                    metrics_log.write("train", progress.step, record)
                    bar.show(record["candidates_per_second"], record["loss"])
                if every and progress.step % every == 0 and not totals.stop:
                    self.save(position)
            if agreement.faulted:
                self._give_up(batches.fault, position)
            if agreement.stopped:
                self._stop(stop, position)
        progress.epoch += 1
        progress.remaining = None
        progress.to_validate = True

    def _stop(self, stop: StopFlag, position: list[Any] | None) -> NoReturn:
        """Saves and ends the run because some rank was asked to stop (collective)."""
        self.save(position, wait=True)
        raise RunError(
            f"stopped by {stop.name or 'another rank'} at step {self.progress.step}; "
            "a checkpoint is saved: go on with --resume"
        )

    def _give_up(self, fault: str | None, position: list[Any] | None) -> None:
        """Ends the run because some rank cannot go on (collective; always raises).

        `fault` is what this rank's reader met. What was trained so far is saved if only the data is
        at fault; a checkpoint that cannot be written would fail again.
        """
        self.writer.wait()
        try:
            self.ranks.raise_on_all(fault)
        except UserError as error:
            if position is None:
                raise
            self._save_and_raise(error, position)
        raise AssertionError("no rank had a fault")

    def _save_and_raise(self, error: UserError, position: list[Any] | None) -> NoReturn:
        """Keeps what was trained before data stopped the run (collective)."""
        self.save(position, wait=True)
        raise UserError(
            f"{error}; a checkpoint of step {self.progress.step} is saved: mend it and go on "
            "with --resume"
        ) from None

    def end_of_epoch(self, stop: StopFlag, metrics_log: MetricsLog) -> None:
        """Validates, remembers the best step and saves."""
        progress = self.progress
        monitor = self.config.training.early_stopping.monitor
        # A split that cannot be read to its end is not yet one to compare with: it may be mended.
        data = dict(progress.data)
        try:
            metrics = validate(
                self.model,
                self.config,
                self.statistics,
                self.ranks,
                known_data=data,
                asked_to_stop=stop.is_set,
            )
        except UserError as error:
            self._save_and_raise(error, None)
        if metrics is None:
            self._stop(stop, None)
        progress.data = data
        progress.to_validate = False
        value = monitored(metrics, monitor)
        better = monitor == "none" or (
            value is not None and is_better(value, progress.best_value, monitor)
        )
        progress.epochs_without_better = 0 if better else progress.epochs_without_better + 1
        if better:
            progress.best_value, progress.best_step = value, progress.step
        # Before the checkpoint: a process killed in between repeats both from the one before.
        metrics_log.write("valid", progress.step, {"epoch": progress.epoch, **metrics})
        self.save(None)
        if self.ranks.first:
            shown = "has no value" if value is None else f"{value:.5f}"
            watched = "not looked at" if monitor == "none" else f"{monitor} {shown}"
            best = ", best" if better else ""
            log.info("epoch %d: valid %s%s", progress.epoch, watched, best)


class _Window:
    """What happened since the last line of the log."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._reset()

    def _reset(self) -> None:
        cells = torch.zeros_like(self.trainer.stepper.loss.weights)
        self.started = time.perf_counter()
        self.candidates = 0
        self.steps = 0
        self.loss: Tensor = cells.new_zeros(())
        self.sums, self.counts = cells, cells.clone()
        self.norm: Tensor | None = None

    def add(self, result: StepResult, candidates: int) -> None:
        self.candidates += candidates
        self.steps += 1
        self.loss = self.loss + result.loss
        self.sums += result.sums
        self.counts += result.counts
        self.norm = result.gradient_norm

    def close(self) -> dict[str, Any]:
        """The record of the window, summed over ranks (collective); begins the next one."""
        ranks, config = self.trainer.ranks, self.trainer.config
        summed = ranks.sum(torch.cat([self.loss.view(1), self.sums.ravel(), self.counts.ravel()]))
        loss = float(summed[0]) / ranks.world / self.steps
        sums, counts = summed[1:].view(2, *self.sums.shape).tolist()
        cells = {
            surface: {
                task: sums[s][t] / counts[s][t]
                for t, task in enumerate(config.tasks)
                if counts[s][t]
            }
            for s, surface in enumerate(config.active_surfaces)
        }
        progress = self.trainer.progress
        learned = {}
        if (variances := unwrap(self.trainer.model).log_variances) is not None:
            weights = variances.detach().neg().exp().tolist()
            learned["balance"] = {
                surface: {task: weights[s][config.tasks.index(task)] for task in each.tasks}
                for s, (surface, each) in enumerate(config.active_surfaces.items())
            }
        record = {
            "epoch": progress.epoch,
            "candidates": progress.candidates,
            "candidates_per_second": self.candidates / (time.perf_counter() - self.started),
            "loss": loss,
            "cells": {surface: found for surface, found in cells.items() if found},
            "dense_lr": self.trainer.dense.adam.param_groups[0]["lr"],
            "gradient_norm": None if self.norm is None else float(self.norm),
            **learned,
        }
        self._reset()
        return record
