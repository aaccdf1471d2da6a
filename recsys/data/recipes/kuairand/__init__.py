"""KuaiRand-Pure (Gao et al., CIKM 2022) as a request table, one surface a tab."""

from recsys.data.recipes.kuairand.build import build
from recsys.data.recipes.kuairand.options import KuaiRandOptions

__all__ = ["KuaiRandOptions", "build"]
