"""Evaluation: mIoU, mAcc, aAcc and boundary IoU by the papers' rules, as a table, JSON and pictures.

`confusion` counts pixels and computes mIoU, mAcc and aAcc from the counts; `boundary` measures outlines; `report` holds
both as text, JSON and CSV, and `figures` draws them; `evaluator` runs a model over a split.
"""
