"""PASCAL VOC: classification and detection."""
