"""Declarations of distillation methods: settings, required experts and implementation."""
