"""Evaluation: what a model gets right, counted by the papers' rules and told as a table, JSON and pictures.

`confusion` counts pixels and turns the counts into mIoU, mAcc and aAcc; `boundary` measures outlines; `report` tells
both, drawn by `figures`.
"""
