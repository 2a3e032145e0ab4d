"""Flamingo (arXiv 2204.14198) in JAX/Flax: few-shot visual language models, trained on TPU pods."""
