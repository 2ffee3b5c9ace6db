"""Image formation: degradation, under-sampling, coils."""
