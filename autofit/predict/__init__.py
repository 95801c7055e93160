"""Prediction: from traced steps to bytes and seconds, without a device. Needs no torch."""
