"""One run's options, whole, and what must hold between them."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from tfcontrast.config.encoder import ModelConfig, foreign_options
from tfcontrast.config.groups import (
    GROUPS,
    AugmentConfig,
    DataConfig,
    EvalConfig,
    RunConfig,
    StrategyConfig,
    TrainConfig,
)
from tfcontrast.config.optimization import OptimConfig
from tfcontrast.config.option import check_options
from tfcontrast.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The options of one method; each method's file extends it.

    ``DEFAULTS`` are the method's own values of general options, by train_mode, with their source.
    """

    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {},
        "linear_eval": {},
        "finetune": {},
    }
    DIGITS: ClassVar[Mapping[str, Any]] = {}
    """Its own values for pretraining on the embedded digits, which go over ``DIGITS_DEFAULTS``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run, whole."""

    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluation: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=StrategyConfig)
    method: MethodConfig = dataclasses.field(default_factory=MethodConfig)

    def validate(self) -> None:
        """Checks every option and what must hold between them.

        Raises:
            UserError: the first thing that is wrong.
        """
        for name in (*GROUPS, "method"):
            check_options(getattr(self, name))
        self._validate_backbone()
        self._validate_crop_area()
        self._validate_decay_epochs()
        self._validate_clipping()
        self._validate_weight_decay()

    def _validate_backbone(self) -> None:
        """Refuses the other network's options where they are not as by default.

        An option that is set to its default is let pass: a run's flagfile names every option.
        """
        backbone = self.model.backbone
        foreign = foreign_options(backbone)
        for field in dataclasses.fields(self.model):
            value = getattr(self.model, field.name)
            if field.name in foreign and value != field.default:
                raise UserError(
                    f"--{field.name}={value} is not an option of --backbone={backbone}; it belongs "
                    f"to {'vit_tiny, vit_small, vit_base' if backbone == 'resnet' else 'resnet'}"
                )

    def _validate_crop_area(self) -> None:
        low, high = self.augment.crop_area_min or 0.08, self.augment.crop_area_max or 1.0
        if low > high:
            raise UserError(
                f"--crop_area_min must not exceed --crop_area_max. Received: {low:g} and {high:g}"
            )

    def _validate_decay_epochs(self) -> None:
        schedule, text = self.optim.learning_rate_schedule, self.optim.decay_epochs
        single, needed = schedule == "exponential", schedule in ("step", "exponential")
        if not needed and not text:
            return
        try:
            epochs = [float(word) for word in text.split(",")]
        except ValueError:
            epochs = []
        finite = all(math.isfinite(epoch) for epoch in epochs)
        if (
            not epochs
            or not finite
            or min(epochs) <= 0
            or epochs != sorted(epochs)
            or (single and len(epochs) > 1)
        ):
            wanted = "one positive number" if single else "rising epochs such as 60,75,90"
            raise UserError(
                f"--decay_epochs must be {wanted} with --learning_rate_schedule={schedule}. "
                f"Received: {text!r}"
            )

    def _validate_clipping(self) -> None:
        whole, each = self.optim.clip_norm, self.optim.clip_tensor_norm
        if whole and each:
            raise UserError(
                "--clip_norm and --clip_tensor_norm exclude each other; set one of them to 0. "
                f"Received: {whole:g} and {each:g}"
            )

    def _validate_weight_decay(self) -> None:
        first, last = self.optim.weight_decay, self.optim.final_weight_decay
        if not first and last >= 0:
            raise UserError(
                "--final_weight_decay needs a --weight_decay above 0 to start from. Received: "
                f"{last:g} and {first:g}"
            )
        if -1 < last < 0:
            raise UserError(
                f"--final_weight_decay must be -1 (constant), or 0 or more. Received: {last:g}"
            )

    def to_dict(self) -> dict[str, Any]:
        """All options by flag name, flat; JSON holds every value exactly."""
        return {
            field.name: getattr(getattr(self, group), field.name)
            for group in (*GROUPS, "method")
            for field in dataclasses.fields(getattr(self, group))
        }

    def to_json(self) -> str:
        """The options as JSON, one a line, sorted."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True)
