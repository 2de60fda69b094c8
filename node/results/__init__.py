"""From a segmentation to DICOM objects: SEG, identity, pictures, and the gate."""
