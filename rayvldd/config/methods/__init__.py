"""Declarations of distillation methods: their settings, the experts they require, and where their code is."""
