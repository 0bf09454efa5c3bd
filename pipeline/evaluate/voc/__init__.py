"""Evaluation on PASCAL VOC: classification and detection."""
