"""Operators that the networks need and no library brings: each is torch-native, trains, compiles and exports."""
