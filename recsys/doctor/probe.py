"""Run in a process of its own: imports what it is told to, one JSON line a module.

    python probe.py torch torchrec lookup

A native library that does not fit can end the process; the caller sees which line is missing. This
file is run by its path, so it imports nothing of recsys.
"""

import importlib
import json
import sys
import time
from importlib.metadata import distributions


def lookup() -> str:
    """A pooled lookup by torchrec and by fbgemm's training kernel, forward and backward.

    Returns the device that did it; raises if a value is wrong.
    """
    import torch
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

    # As recsys/gpus.py decides it.
    cuda = torch.cuda.is_available() and not any(distributions(name="fbgemm-gpu-cpu"))
    device = torch.device("cuda" if cuda else "cpu")
    weights = torch.arange(12.0).view(3, 4)
    table = EmbeddingBagConfig(
        name="table", embedding_dim=4, num_embeddings=3, feature_names=["feature"]
    )
    collection = EmbeddingBagCollection(tables=[table], device=device)
    kernel = SplitTableBatchedEmbeddingBagsCodegen(
        [
            (
                3,
                4,
                EmbeddingLocation.DEVICE if cuda else EmbeddingLocation.HOST,
                ComputeDevice.CUDA if cuda else ComputeDevice.CPU,
            )
        ],
        device=device,
    )
    with torch.no_grad():
        collection.embedding_bags["table"].weight.copy_(weights)
        kernel.split_embedding_weights()[0].copy_(weights)
    values = torch.tensor([2, 0, 1], device=device)
    lengths = torch.tensor([2, 1], device=device)
    features = KeyedJaggedTensor.from_lengths_sync(["feature"], values, lengths)
    expected = torch.stack([weights[2] + weights[0], weights[1]])
    pooled = collection(features).values().detach().cpu()
    trained = kernel(features.values(), features.offsets())
    trained.sum().backward()
    for name, result in (("torchrec", pooled), ("fbgemm", trained.detach().cpu())):
        if not torch.equal(result, expected):
            raise RuntimeError(f"a lookup by {name} gave {result.tolist()}")
    return str(device)


def main(names: list[str]) -> None:
    for name in names:
        started = time.perf_counter()
        found: dict[str, object] = {"module": name, "ok": True, "error": None}
        try:
            if name == "lookup":
                found["device"] = lookup()
            else:
                importlib.import_module(name)
        except BaseException as error:  # whatever it is, it is what this is to find
            # A loader's own error names a file; what it was raised from says what is wrong with it.
            texts = [str(each) for each in (error, error.__cause__) if each is not None]
            message = " ".join(": ".join(texts).split())
            found |= {"ok": False, "error": f"{type(error).__name__}: {message}"}
            if isinstance(error, ModuleNotFoundError):
                found["missing"] = error.name
        found["seconds"] = round(time.perf_counter() - started, 2)
        print("probe " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
