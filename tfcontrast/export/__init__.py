"""Models that leave: the SavedModel by the contract of TensorFlow Hub."""

from tfcontrast.export.hub_module import METADATA_FILE, save_hub_module

__all__ = ["METADATA_FILE", "save_hub_module"]
