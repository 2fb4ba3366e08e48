"""mixstill: distil image classifiers into vision MLPs with Spatial-channel Token Distillation (ICML 2022)."""
