"""lem: energy, throughput and latency of language model inference, measured and labelled for what they are."""
