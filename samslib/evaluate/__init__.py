"""What trained models and cells say: effects, bounds, scores, checks, recovery, annotation."""
