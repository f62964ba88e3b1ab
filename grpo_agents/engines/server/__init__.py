"""Sampling with a vLLM server that already runs, elsewhere or here."""

from grpo_agents.engines.server.engine import ServerEngine

__all__ = ["ServerEngine"]
