"""How 64-bit Arm CPUs round and narrow sums of integers: their vectors have 128 bits, and convert slowly."""
