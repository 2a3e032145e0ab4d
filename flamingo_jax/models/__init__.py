"""The Flax modules: vision encoder, resampler, gated cross-attention, language decoder."""
