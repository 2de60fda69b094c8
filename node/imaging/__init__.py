"""From instances to volumes in physical units, and back; geometry that is exact or refused."""
