"""MT-Bench (Zheng et al., arXiv 2306.05685): questions, answers of a model, judgments, in FastChat's files."""
