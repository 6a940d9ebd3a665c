"""MELLODDY-TUNER's file names."""

from __future__ import annotations

LAYOUT: dict[str, dict[str, str]] = {
    "cls": {
        "x": "cls_T11_x.npz",
        "folds": "cls_T11_fold_vector.npy",
        "y_class": "cls_T10_y.npz",
        "class_weights": "cls_weights.csv",
    },
    "reg": {
        "x": "reg_T11_x.npz",
        "folds": "reg_T11_fold_vector.npy",
        "y_regr": "reg_T10_y.npz",
        "y_censor": "reg_T10_censor_y.npz",
        "regr_weights": "reg_weights.csv",
    },
    "hyb": {
        "x": "hyb_T11_x.npz",
        "folds": "hyb_T11_fold_vector.npy",
        "y_class": "hyb_cls_T10_y.npz",
        "y_regr": "hyb_reg_T10_y.npz",
        "y_censor": "hyb_reg_T10_censor_y.npz",
        "class_weights": "hyb_cls_weights.csv",
        "regr_weights": "hyb_reg_weights.csv",
    },
    "clsaux": {
        "x": "clsaux_T11_x.npz",
        "folds": "clsaux_T11_fold_vector.npy",
        "y_class": "clsaux_T10_y.npz",
        "class_weights": "clsaux_weights.csv",
    },
}
"""The files of each data set, by TUNER's names. TUNER refuses a folder that holds any other."""

AUXILIARY_TYPES = frozenset({"AUX_HTS", "AUX_PL"})
"""Assay types that only ``clsaux`` holds."""
