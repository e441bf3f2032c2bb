"""Forecasts of a score at a larger compute: models, their choice by hold-out, bands, and the record in the run folder."""
