"""Terrazzo: transformer semantic segmentation for people who have to ship it.

    import terrazzo

    result = terrazzo.predict("street.jpg")                  # a Segmentation: .mask, .labels, .overlay(), .save(...)
    report = terrazzo.evaluate("segformer_b0.camvid", "data/camvid", split="val")
    run = terrazzo.train(data="data/camvid", model="segformer_b0", output="runs/camvid")

Names are imported when they are first used, so importing the package costs nothing and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from terrazzo.ablation.ablate import ablate
    from terrazzo.client import AsyncClient, Client
    from terrazzo.data import open_dataset
    from terrazzo.data.check import check_dataset
    from terrazzo.data.rules import DataRules
    from terrazzo.data.splits import SplitRule
    from terrazzo.errors import TerrazzoError
    from terrazzo.evaluation.calibrate import calibrate
    from terrazzo.evaluation.compare import compare
    from terrazzo.evaluation.comparison import Comparison
    from terrazzo.evaluation.evaluator import evaluate
    from terrazzo.evaluation.report import Report
    from terrazzo.evaluation.robustness import Robustness, evaluate_corruptions
    from terrazzo.exports.export import export
    from terrazzo.inference.predict import make_predictor, predict
    from terrazzo.inference.predict_folder import predict_folder
    from terrazzo.inference.predict_video import predict_video
    from terrazzo.inference.predictor import Predictor
    from terrazzo.inference.result import Segmentation
    from terrazzo.interpret.attention import attention_maps
    from terrazzo.interpret.receptive_field import receptive_fields
    from terrazzo.labelling.check_labels import check_labels
    from terrazzo.labelling.suggest import suggest
    from terrazzo.labels.spec import LabelSpec
    from terrazzo.models import list_models
    from terrazzo.models.spec import ModelSpec
    from terrazzo.notes import TerrazzoWarning
    from terrazzo.preprocess import Preprocess
    from terrazzo.profiling.benchmark import benchmark
    from terrazzo.run_page.report import report
    from terrazzo.training.averaging import Average, average
    from terrazzo.training.cross_validation import cross_validate
    from terrazzo.training.folds import CrossValidation
    from terrazzo.training.pretrain import Pretraining, pretrain
    from terrazzo.training.pretrain_recipe import PretrainRecipe
    from terrazzo.training.recipe import Recipe
    from terrazzo.training.train import Run, train
    from terrazzo.weights.check_weights import check_weights
    from terrazzo.weights.convert import convert
    from terrazzo.weights.create import create_model
    from terrazzo.weights.files import TrainedModel
    from terrazzo.weights.load import load
    from terrazzo.weights.push import push

__all__ = [
    "AsyncClient",
    "Average",
    "Client",
    "Comparison",
    "CrossValidation",
    "DataRules",
    "LabelSpec",
    "ModelSpec",
    "Predictor",
    "Preprocess",
    "PretrainRecipe",
    "Pretraining",
    "Recipe",
    "Report",
    "Robustness",
    "Run",
    "Segmentation",
    "SplitRule",
    "TerrazzoError",
    "TerrazzoWarning",
    "TrainedModel",
    "ablate",
    "attention_maps",
    "average",
    "benchmark",
    "calibrate",
    "check_dataset",
    "check_labels",
    "check_weights",
    "compare",
    "convert",
    "create_model",
    "cross_validate",
    "evaluate",
    "evaluate_corruptions",
    "export",
    "list_models",
    "load",
    "make_predictor",
    "open_dataset",
    "predict",
    "predict_folder",
    "predict_video",
    "pretrain",
    "push",
    "receptive_fields",
    "report",
    "suggest",
    "train",
]

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "terrazzo.client",
    "Comparison": "terrazzo.evaluation.comparison",
    "CrossValidation": "terrazzo.training.folds",
    "Average": "terrazzo.training.averaging",
    "Client": "terrazzo.client",
    "DataRules": "terrazzo.data.rules",
    "LabelSpec": "terrazzo.labels.spec",
    "ModelSpec": "terrazzo.models.spec",
    "Predictor": "terrazzo.inference.predictor",
    "Preprocess": "terrazzo.preprocess",
    "PretrainRecipe": "terrazzo.training.pretrain_recipe",
    "Pretraining": "terrazzo.training.pretrain",
    "Recipe": "terrazzo.training.recipe",
    "Report": "terrazzo.evaluation.report",
    "Robustness": "terrazzo.evaluation.robustness",
    "Run": "terrazzo.training.train",
    "Segmentation": "terrazzo.inference.result",
    "SplitRule": "terrazzo.data.splits",
    "TerrazzoError": "terrazzo.errors",
    "TerrazzoWarning": "terrazzo.notes",
    "TrainedModel": "terrazzo.weights.files",
    "ablate": "terrazzo.ablation.ablate",
    "attention_maps": "terrazzo.interpret.attention",
    "average": "terrazzo.training.averaging",
    "benchmark": "terrazzo.profiling.benchmark",
    "calibrate": "terrazzo.evaluation.calibrate",
    "check_dataset": "terrazzo.data.check",
    "check_labels": "terrazzo.labelling.check_labels",
    "check_weights": "terrazzo.weights.check_weights",
    "compare": "terrazzo.evaluation.compare",
    "convert": "terrazzo.weights.convert",
    "create_model": "terrazzo.weights.create",
    "cross_validate": "terrazzo.training.cross_validation",
    "evaluate": "terrazzo.evaluation.evaluator",
    "evaluate_corruptions": "terrazzo.evaluation.robustness",
    "export": "terrazzo.exports.export",
    "list_models": "terrazzo.models",
    "load": "terrazzo.weights.load",
    "make_predictor": "terrazzo.inference.predict",
    "open_dataset": "terrazzo.data",
    "predict": "terrazzo.inference.predict",
    "predict_folder": "terrazzo.inference.predict_folder",
    "predict_video": "terrazzo.inference.predict_video",
    "pretrain": "terrazzo.training.pretrain",
    "push": "terrazzo.weights.push",
    "receptive_fields": "terrazzo.interpret.receptive_field",
    "report": "terrazzo.run_page.report",
    "suggest": "terrazzo.labelling.suggest",
    "train": "terrazzo.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'terrazzo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
