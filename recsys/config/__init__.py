"""What a user may write. Imports no torch, so that a config is checked in milliseconds."""

from recsys.config.experiment import Config
from recsys.config.features import FeaturesConfig, IdFeature, NumberFeature, TableConfig
from recsys.config.load import dump_config, load_config, parse_config
from recsys.config.surfaces import ModuleConfig, SurfaceConfig, TowerConfig

__all__ = [
    "Config",
    "FeaturesConfig",
    "IdFeature",
    "ModuleConfig",
    "NumberFeature",
    "SurfaceConfig",
    "TableConfig",
    "TowerConfig",
    "dump_config",
    "load_config",
    "parse_config",
]
