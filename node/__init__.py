"""Limner: DICOM studies in, segmentations out, with proof that they arrived."""
