"""mixstill: distil image classifiers into vision MLPs with Spatial-channel Token Distillation (Li et al., ICML 2022)."""
