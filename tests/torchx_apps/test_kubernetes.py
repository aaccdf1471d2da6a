"""The Volcano job that TorchX makes of a component: no cluster is needed.

After a wanted change: python -m tests.torchx_apps.test_kubernetes
"""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kubernetes", reason="pip install -r requirements/kubernetes.txt")

from kubernetes.client import V1PodTemplateSpec
from pydantic import ValidationError
from torchx.runner import config, get_runner
from torchx.specs import CfgVal

EXAMPLE = Path(__file__).parents[2] / "torchx_apps/examples/kubernetes.torchxconfig"
GOLDEN = Path(__file__).parent / "golden"
JOBS = {
    "train": [
        *("--config", "/data/config.yaml", "--run", "/runs/first"),
        *("training.epochs=2", "data.root=/data"),
    ],
    "each_surface": [
        *("--verb", "export", "--run", "/runs/first", "--surfaces", "home,search"),
        *("--", "--embeddings", "int8"),
    ],
}


def job_of(name: str) -> dict[str, Any]:
    """What `torchx run -s kubernetes recsys.NAME …` would submit with the example's settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHXCONFIG", str(EXAMPLE))
        # Without a cluster there is nobody to ask whether the job is valid: that is tested here.
        cfg: dict[str, CfgVal] = {"validate_spec": False}
        config.apply("kubernetes", cfg)
        defaults = config.load_sections("component")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LOGLEVEL", raising=False)  # TorchX passes it on
        return _dryrun(name, cfg, defaults)


def _dryrun(
    name: str, cfg: dict[str, CfgVal], defaults: dict[str, dict[str, str]]
) -> dict[str, Any]:
    with get_runner(component_defaults=defaults) as runner, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about retries in Volcano 1.4
        info = runner.dryrun_component(f"recsys.{name}", JOBS[name], "kubernetes", cfg=cfg)
    return yaml.safe_load(str(info.request))  # type: ignore[no-any-return]


def normal_form(job: dict[str, Any]) -> str:
    """The job as text, with names in place of what is different in every job."""
    name = job["metadata"]["name"]
    text = yaml.safe_dump(job, width=10_000).replace(name, re.sub(r"-[a-z0-9]+$", "-UNIQUE", name))
    return re.sub(r"(TORCHX_INTERNAL_SESSION_ID\s+value: )\S+", r"\1SESSION", text)


@pytest.mark.parametrize("name", JOBS)
def test_the_job_is_the_one_in_the_golden_file(name: str) -> None:
    assert normal_form(job_of(name)) == (GOLDEN / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", JOBS)
def test_pod_templates_are_of_the_kubernetes_api(name: str) -> None:
    """The client's models refuse a field that the API does not have, and another type of value."""
    tasks = job_of(name)["spec"]["tasks"]
    assert len(tasks) == 2
    for task in tasks:
        template = V1PodTemplateSpec.model_validate(task["template"])
        assert template.spec.termination_grace_period_seconds == 35
        (container,) = template.spec.containers
        assert container.image == "registry.example.com/recsys:0.1.0"
        assert [mount.mount_path for mount in container.volume_mounts] == [
            *("/dev/shm", "/data", "/runs"),
        ]


def test_the_models_are_strict() -> None:
    template = job_of("train")["spec"]["tasks"][0]["template"]
    template["spec"]["containers"][0]["memory"] = "1Gi"
    with pytest.raises(ValidationError, match="memory"):
        V1PodTemplateSpec.model_validate(template)


def test_a_node_of_gpus_is_asked_for() -> None:
    for task in job_of("train")["spec"]["tasks"]:
        (container,) = task["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"


if __name__ == "__main__":
    for each in JOBS:
        (GOLDEN / f"{each}.yaml").write_text(normal_form(job_of(each)))
