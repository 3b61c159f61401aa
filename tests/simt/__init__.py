"""CUDA kernels on the CPU: the emulator, its build, and the tests that hold it and the kernels to their word."""
