"""Llama and Qwen3 by OpenVINO's CPU kernels."""
