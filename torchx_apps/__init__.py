"""TorchX components and named resources: `torchx run recsys.train …`."""
