"""Run CUDA kernel source on the CPU, for tests on machines without a GPU: see README.md."""
